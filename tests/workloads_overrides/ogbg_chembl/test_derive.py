import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads_overrides.ogbg_chembl import derive


@given(st.lists(st.integers(0, 30).map(str), min_size=1, max_size=200))
def test_scaffold_split_keeps_scaffolds_together(scaffolds):
    split = derive.scaffold_split(scaffolds)
    parts = {}
    for scaffold, part in zip(scaffolds, split.tolist(), strict=True):
        assert parts.setdefault(scaffold, part) == part
    assert 10 * np.sum(split == 0) <= 8 * len(scaffolds)


def test_scaffold_split_of_single_scaffolds_is_exact():
    split = derive.scaffold_split([str(i) for i in range(100)])
    assert np.bincount(split).tolist() == [80, 10, 10]


def test_largest_scaffolds_train():
    split = derive.scaffold_split(['big'] * 50 + [str(i) for i in range(50)])
    assert not split[:50].any()


def activities(positives, negatives, assay='a'):
    """One assay with these counts of pK 9 and pK 5 in each of the three parts."""
    pk, split = [], []
    for part in range(3):
        pk += [9.0] * positives[part] + [5.0] * negatives[part]
        split += [part] * (positives[part] + negatives[part])
    return {assay: (np.arange(len(pk)), np.array(pk))}, np.array(split)


def test_tasks_need_two_of_each_class_in_each_part():
    tasks = derive.select_tasks(*activities([2, 2, 2], [2, 2, 2]), num_tasks=5)
    assert [task.threshold for task in tasks] == [6.5, 7.0, 7.5, 8.0, 8.5]
    for scarce in ([1, 2, 2], [2, 1, 2], [2, 2, 1]):
        with pytest.raises(ValueError, match='0 pairs'):
            derive.select_tasks(*activities(scarce, [2, 2, 2]), num_tasks=1)
        with pytest.raises(ValueError, match='0 pairs'):
            derive.select_tasks(*activities([2, 2, 2], scarce), num_tasks=1)


def test_surplus_tasks_are_those_with_the_scarcest_class():
    rich, split = activities([5, 5, 5], [3, 3, 3], assay='rich')
    poor, poor_split = activities([9, 9, 2], [9, 9, 9], assay='poor')
    molecules, pk = poor['poor']
    both = rich | {'poor': (molecules + len(split), pk)}
    both_split = np.concatenate([split, poor_split])
    tasks = derive.select_tasks(both, both_split, num_tasks=7)
    assert [task.assay for task in tasks] == ['poor'] * 2 + ['rich'] * 5
    assert [task.threshold for task in tasks[:2]] == [6.5, 7.0]


def test_labels_reach_the_threshold_or_are_missing():
    measured = {'a': (np.array([0, 2, 3]), np.array([7.0, 6.9, 8.0]))}
    labels = derive.label_matrix(measured, [derive.Task('a', 7.0)], 4)
    assert labels[:, 0].tolist() == [1, -1, 0, 1]
    assert labels.dtype == np.int8
    assert derive.Task('a', 7.0).name == 'a>=7'
