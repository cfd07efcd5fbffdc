import numpy as np
import pytest
from absl import logging

from tests.workloads_overrides.ogbg_chembl.scaffold_hash import scaffold_hashes
from tests.workloads_overrides.ogbg_chembl.small_data import small_arrays
from workloads_overrides.ogbg_chembl import dataset as dataset_lib
from workloads_overrides.ogbg_chembl.derive import SPLITS


@pytest.fixture(scope='module')
def dataset():
    return dataset_lib.load_dataset()


def test_committed_arrays_have_the_committed_hash():
    arrays = dataset_lib.read_arrays(dataset_lib.DEFAULT_PATH)
    assert dataset_lib.content_hash(arrays) == dataset_lib.CONTENT_SHA256
    assert dataset_lib.DEFAULT_PATH.stat().st_size <= 2_000_000


def test_hash_depends_on_values_types_and_names():
    array = np.arange(4, dtype=np.uint8)
    hashes = {
        dataset_lib.content_hash(arrays)
        for arrays in (
            {'a': array},
            {'b': array},
            {'a': array + 1},
            {'a': array.reshape(2, 2)},
            {'a': array.view(np.int8)},
        )
    }
    assert len(hashes) == 5


def test_sizes(dataset):
    assert dataset.num_train == 28_506
    assert dataset.num_validation == 3_563
    assert dataset.num_test == 3_564
    assert (dataset.average_nodes, dataset.average_edges) == (31, 68)


def test_no_scaffold_is_in_two_parts(dataset):
    hashes = scaffold_hashes(dataset)
    parts = [set(hashes[dataset.indices(name)].tolist()) for name in SPLITS]
    assert sum(len(part) for part in parts) == 15_156
    assert len(set.union(*parts)) == 15_156


def test_no_molecule_is_in_two_parts(dataset):
    parts = {}
    for name in SPLITS:
        for molecule in dataset.indices(name):
            nodes = slice(*dataset.node_offsets[molecule : molecule + 2])
            edges = slice(*dataset.edge_offsets[molecule : molecule + 2])
            graph = dataset.nodes[nodes].tobytes() + dataset.edges[edges].tobytes()
            graph += dataset.senders[edges].tobytes()
            assert parts.setdefault(graph, name) == name


def test_each_task_has_both_classes_in_each_part(dataset):
    assert len(dataset.task_names) == 128
    assert len({name.split('>=')[0] for name in dataset.task_names}) == 30
    for name in SPLITS:
        labels = dataset.labels[dataset.indices(name)]
        assert (labels == 1).sum(axis=0).min() >= 2
        assert (labels == 0).sum(axis=0).min() >= 2


def test_labels_of_an_assay_fall_with_the_threshold(dataset):
    # A molecule that reaches pK 8 also reaches pK 7.
    tasks = [name.split('>=') for name in dataset.task_names]
    pairs = 0
    for column, (assay, threshold) in enumerate(tasks[:-1]):
        next_assay, next_threshold = tasks[column + 1]
        if assay == next_assay:
            assert float(threshold) < float(next_threshold)
            lower, higher = dataset.labels[:, column], dataset.labels[:, column + 1]
            np.testing.assert_array_equal(lower < 0, higher < 0)
            assert np.all(lower >= higher)
            pairs += 1
    assert pairs == 98


def test_edges_come_in_both_directions():
    arrays = small_arrays()
    dataset = dataset_lib.from_arrays(arrays)
    bond = 0
    for molecule, count in enumerate(arrays['edge_count'].astype(int)):
        edges = slice(*dataset.edge_offsets[molecule : molecule + 2])
        first, second = arrays['edge_index'][bond : bond + count].T
        features = arrays['edge_features'][bond : bond + count]
        np.testing.assert_array_equal(dataset.senders[edges], [*first, *second])
        np.testing.assert_array_equal(dataset.receivers[edges], [*second, *first])
        np.testing.assert_array_equal(
            dataset.edges[edges], np.concatenate([features] * 2)
        )
        bond += count


def test_unknown_split_is_named(dataset):
    with pytest.raises(ValueError, match='holdout'):
        dataset.indices('holdout')


def test_missing_file_is_named(tmp_path):
    path = tmp_path / 'none.npz'
    with pytest.raises(FileNotFoundError, match=r'none\.npz.*build_data'):
        dataset_lib.read_arrays(path)


@pytest.mark.parametrize('keep', [0, 100, -100])
def test_damaged_file_is_named(tmp_path, keep):
    (tmp_path / dataset_lib.FILE_NAME).write_bytes(
        dataset_lib.DEFAULT_PATH.read_bytes()[:keep]
    )
    with pytest.raises(ValueError, match=f'{dataset_lib.FILE_NAME}.*build_data'):
        dataset_lib.load_dataset(str(tmp_path))


def test_file_with_a_flipped_byte_is_named(tmp_path):
    content = bytearray(dataset_lib.DEFAULT_PATH.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path = tmp_path / dataset_lib.FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'{dataset_lib.FILE_NAME}.*build_data'):
        dataset_lib.read_arrays(path)


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('labels', lambda a: a[:, :5]),
        ('split', lambda a: a.astype(np.int64)),
        ('node_features', lambda a: a[1:]),
        ('edge_index', None),
    ],
)
def test_wrong_array_is_named(tmp_path, name, change):
    arrays = small_arrays()
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    path = tmp_path / 'molecules.npz'
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f'molecules.npz.*{name}'):
        dataset_lib.read_arrays(path)


def test_data_dir_takes_precedence_and_may_be_empty(tmp_path, monkeypatch):
    lines = []
    for level in ('info', 'warning'):
        monkeypatch.setattr(
            logging, level, lambda text, *values: lines.append(text % values)
        )
    committed = dataset_lib.load_dataset()
    lines.clear()
    assert dataset_lib.load_dataset(str(tmp_path)) is committed
    path = tmp_path / dataset_lib.FILE_NAME
    assert lines == [f'{path} is missing; using the committed molecules.']
    np.savez(tmp_path / dataset_lib.FILE_NAME, **small_arrays())
    assert dataset_lib.load_dataset(str(tmp_path)).num_train == 32
    assert lines[1:] == [f'Data: molecules in {path}.']


def test_missing_data_dir_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'data_dir .*gone: there is no such'):
        dataset_lib.load_dataset(str(tmp_path / 'gone'))
