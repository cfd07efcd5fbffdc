import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.search_space import load_search_space

BOX = {
    'learning_rate': {'min': 1e-4, 'max': 1e-1, 'scaling': 'log'},
    'momentum': {'min': 0.8, 'max': 0.95, 'scaling': 'linear'},
    'setting': {'feasible_points': ['expand', 'reduce']},
}


def write(folder, content):
    path = folder / 'space.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_points_come_in_order_and_are_cut_to_the_number_of_trials(tmp_path):
    path = write(
        tmp_path, [{'a': 1, 'b': None}, {'b': 'x', 'a': 0.5}, {'a': 3, 'b': 1}]
    )
    points = load_search_space(path, 2)
    assert [point._asdict() for point in points] == [
        {'a': 1, 'b': None},
        {'a': 0.5, 'b': 'x'},
    ]
    assert type(points[0]).__name__ == 'Hyperparameters'
    assert len(load_search_space(path, 9)) == 3


def test_box_is_reproducible_and_its_first_points_do_not_depend_on_the_count(tmp_path):
    path = write(tmp_path, BOX)
    five = load_search_space(path, 5)
    assert five == load_search_space(path, 5)
    assert five[:2] == load_search_space(path, 2)
    assert five != load_search_space(path, 5, seed=1)
    assert len(set(five)) == 5


def test_box_covers_its_range_on_the_scale_asked_for(tmp_path):
    points = load_search_space(write(tmp_path, BOX), 64)
    # Halton points put about the same number into each third of a range.
    for low, high in ((1e-4, 1e-3), (1e-3, 1e-2), (1e-2, 1e-1)):
        assert 18 <= sum(low <= point.learning_rate < high for point in points) <= 25
    assert 18 <= sum(point.momentum < 0.85 for point in points) <= 25
    assert 28 <= sum(point.setting == 'expand' for point in points) <= 36


positive = st.floats(1e-300, 1e300)
finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(
    ends=st.one_of(
        st.tuples(st.just('log'), positive, positive),
        st.tuples(st.just('linear'), finite, finite),
    ),
    choices=st.lists(st.integers(), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_all_samples_are_within_bounds(tmp_path_factory, ends, choices, seed):
    scaling, first, second = ends
    low, high = sorted((first, second))
    path = write(
        tmp_path_factory.getbasetemp(),
        {
            'x': {'min': low, 'max': high, 'scaling': scaling},
            'y': {'feasible_points': choices},
        },
    )
    points = load_search_space(path, 5, seed)
    assert len(points) == 5
    assert all(low <= point.x <= high and point.y in choices for point in points)


GOOD_RANGE = {'min': 1, 'max': 2, 'scaling': 'linear'}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"a": ', 'is not valid JSON'),
        ('[{"a": 1, "a": 2}]', "'a' occurs twice"),
        (3, 'list of points or a mapping'),
        ([], 'the list is empty'),
        ([1], 'point 0: must be a mapping'),
        ([{}], 'point 0: must be a mapping'),
        ([{'a': 1}, {'b': 1}], r"point 1.*missing: \['a'\].*not in point 0: \['b'\]"),
        ([{'a': [1]}], "point 0, 'a': must be a finite number, a string"),
        ('[{"a": NaN}]', "point 0, 'a'.*finite"),
        ([{'class': 1}], "'class' cannot be a hyperparameter"),
        ({'_a': GOOD_RANGE}, "'_a' cannot be a hyperparameter"),
        ({}, 'names no hyperparameter'),
        ({'a': 1}, r"'a': must be either.*feasible_points"),
        ({'a': {'min': 1, 'max': 2}}, r"'a'.*missing: \['scaling'\]"),
        ({'a': {**GOOD_RANGE, 'step': 1}}, r"'a'.*not allowed: \['step'\]"),
        ({'a': {**GOOD_RANGE, 'min': 3}}, "'a': min 3.0 is above max 2.0"),
        ({'a': {**GOOD_RANGE, 'min': '1'}}, "'a', 'min': must be a finite number"),
        ({'a': {**GOOD_RANGE, 'max': True}}, "'a', 'max': must be a finite number"),
        ({'a': {**GOOD_RANGE, 'scaling': 'ln'}}, r"'scaling'.*\['linear', 'log'\]"),
        (
            {'a': {'min': 0, 'max': 1, 'scaling': 'log'}},
            "'a', 'min': must be above 0 with log scaling",
        ),
        ({'a': {'feasible_points': []}}, "'a', feasible_points: must be a list"),
        ({'a': {'feasible_points': [1, {}]}}, r'feasible_points\[1\]'),
        ({'a': {'feasible_points': [1], 'min': 0}}, 'stands alone'),
    ],
)
def test_mistakes_are_named_with_file_place_and_what_is_allowed(
    tmp_path, content, message
):
    path = write(tmp_path, content)
    with pytest.raises(RunnerError, match=message) as caught:
        load_search_space(path, 1)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(RunnerError, match=r'absent\.json: there is no such file'):
        load_search_space(tmp_path / 'absent.json', 1)


def test_a_folder_is_no_search_space(tmp_path):
    with pytest.raises(RunnerError, match='cannot be read: Is a directory'):
        load_search_space(tmp_path, 1)
