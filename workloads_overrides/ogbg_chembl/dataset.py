"""Loads the molecules, as flat arrays with offsets."""

import dataclasses
import functools
import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from absl import logging

from workloads_overrides.data_folder import existing_folder
from workloads_overrides.ogbg_chembl.derive import SPLITS

FILE_NAME = 'chembl_molecules.npz'
DEFAULT_PATH = pathlib.Path(__file__).parent / 'data' / FILE_NAME
NUM_TASKS = 128

# Of the arrays, not of the file: the bytes of an archive depend on the version
# of the compression library.
CONTENT_SHA256 = '6d74d8d29330372dbe0b87fba8060f3af7e9659d660749602bab3303133ab580'

# What the archive holds. Bonds are listed once, atoms of a bond count from the
# first atom of their molecule.
ARRAY_DTYPES: Mapping[str, str] = {
    'node_count': 'uint16',  # [n_molecules]
    'edge_count': 'uint16',  # [n_molecules]
    'node_features': 'uint8',  # [n_nodes, 9]
    'edge_features': 'uint8',  # [n_edges, 3]
    'edge_index': 'uint16',  # [n_edges, 2]
    'labels': 'int8',  # [n_molecules, 128], -1 where unmeasured
    'split': 'uint8',  # [n_molecules], index into SPLITS
    'task_names': 'S',  # [128]
}


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class MoleculeDataset:
    """All molecules, one after the other, with edges in both directions.

    A molecule's edges are its bonds followed by the same bonds reversed.

    Attributes:
        nodes: float32 raw atom features, `[n_nodes, 9]`.
        edges: float32 raw bond features, `[n_edges, 3]`.
        senders: int64 node index within the molecule, `[n_edges]`.
        receivers: int64 node index within the molecule, `[n_edges]`.
        node_offsets: int64 first node of each molecule and the end, `[n + 1]`.
        edge_offsets: int64 first edge of each molecule and the end, `[n + 1]`.
        labels: int8 labels, -1 where unmeasured, `[n, n_tasks]`.
        split: uint8 index into `SPLITS`, `[n]`.
        task_names: names of the tasks.
    """

    nodes: np.ndarray
    edges: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    node_offsets: np.ndarray
    edge_offsets: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    task_names: tuple[str, ...]

    def indices(self, split: str) -> np.ndarray:
        """Returns the molecules of 'train', 'validation' or 'test'."""
        if split not in SPLITS:
            raise ValueError(f'Unknown split {split!r}: expected one of {SPLITS}.')
        return np.flatnonzero(self.split == SPLITS.index(split))

    @functools.cached_property
    def node_counts(self) -> np.ndarray:
        """Atoms of each molecule, int64 `[n]`."""
        return np.diff(self.node_offsets)

    @functools.cached_property
    def edge_counts(self) -> np.ndarray:
        """Directed edges of each molecule, int64 `[n]`."""
        return np.diff(self.edge_offsets)

    @property
    def num_train(self) -> int:
        """Number of training molecules."""
        return len(self.indices('train'))

    @property
    def num_validation(self) -> int:
        """Number of validation molecules."""
        return len(self.indices('validation'))

    @property
    def num_test(self) -> int:
        """Number of test molecules."""
        return len(self.indices('test'))

    @functools.cached_property
    def average_nodes(self) -> int:
        """Nodes of an average training molecule, rounded."""
        return round(float(self.node_counts[self.indices('train')].mean()))

    @functools.cached_property
    def average_edges(self) -> int:
        """Directed edges of an average training molecule, rounded."""
        return round(float(self.edge_counts[self.indices('train')].mean()))


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _both_directions(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Returns edge features, senders and receivers with each bond twice."""
    counts = arrays['edge_count'].astype(np.int64)
    bonds = np.arange(counts.sum())
    # Where each bond goes: before its molecule come twice the bonds listed so far.
    forward = bonds + np.repeat(_offsets(counts)[:-1], counts)
    backward = forward + np.repeat(counts, counts)
    source = np.empty(2 * len(bonds), np.int64)
    source[forward] = source[backward] = bonds
    reverse = np.zeros(2 * len(bonds), bool)
    reverse[backward] = True
    first, second = arrays['edge_index'][source].astype(np.int64).T
    return (
        arrays['edge_features'][source].astype(np.float32),
        np.where(reverse, second, first),
        np.where(reverse, first, second),
    )


def from_arrays(arrays: Mapping[str, np.ndarray]) -> MoleculeDataset:
    """Returns the data set that the arrays of an archive describe."""
    edges, senders, receivers = _both_directions(arrays)
    return MoleculeDataset(
        nodes=arrays['node_features'].astype(np.float32),
        edges=edges,
        senders=senders,
        receivers=receivers,
        node_offsets=_offsets(arrays['node_count']),
        edge_offsets=_offsets(2 * arrays['edge_count'].astype(np.int64)),
        labels=arrays['labels'],
        split=arrays['split'],
        task_names=tuple(name.decode() for name in arrays['task_names'].tolist()),
    )


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    for name, dtype in ARRAY_DTYPES.items():
        if name not in arrays:
            raise ValueError(f'array {name!r} is missing')
        found = arrays[name].dtype
        if found != dtype and found.kind != dtype:
            raise ValueError(f'array {name!r} is {found}, expected {dtype}')
    molecules = len(arrays['node_count'])
    nodes = int(arrays['node_count'].sum(dtype=np.int64))
    edges = int(arrays['edge_count'].sum(dtype=np.int64))
    shapes = {
        'edge_count': (molecules,),
        'node_features': (nodes, 9),
        'edge_features': (edges, 3),
        'edge_index': (edges, 2),
        'labels': (molecules, NUM_TASKS),
        'split': (molecules,),
        'task_names': (NUM_TASKS,),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(
                f'array {name!r} has shape {arrays[name].shape}, expected {shape}'
            )


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads and checks the arrays of an archive.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds something else.
    """
    remedy = (
        'Restore it from the repository or make it again with '
        'python -m workloads_overrides.ogbg_chembl.build_data.'
    )
    if not path.is_file():
        raise FileNotFoundError(f'No molecules at {path}. {remedy}')
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        _check(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f'Cannot read molecules from {path}: {error}. {remedy}') from (
            error
        )
    return arrays


@functools.lru_cache(maxsize=2)
def _load(path: pathlib.Path) -> MoleculeDataset:
    logging.info('Data: molecules in %s.', path)
    return from_arrays(read_arrays(path))


def load_dataset(data_dir: str | None = None) -> MoleculeDataset:
    """Loads the molecules; repeated calls return the same object.

    Args:
        data_dir: a folder that may hold a file `chembl_molecules.npz` to use in
            place of the committed one, which is used with a warning where it does
            not.

    Raises:
        FileNotFoundError: there is no such folder, or the committed file is missing.
        ValueError: the file is damaged.
    """
    folder = existing_folder(data_dir)
    if folder is not None:
        candidate = folder.resolve() / FILE_NAME
        if candidate.is_file():
            return _load(candidate)
        logging.warning('%s is missing; using the committed molecules.', candidate)
    return _load(DEFAULT_PATH)
