"""A small data set for tests that need to know every graph."""

import numpy as np

from workloads_overrides.ogbg_chembl.dataset import (
    NUM_TASKS,
    MoleculeDataset,
    from_arrays,
)


def small_arrays(num_molecules: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random molecules; atom feature 0 holds the molecule's number."""
    rng = np.random.default_rng(seed)
    node_count = rng.integers(1, 9, num_molecules).astype(np.uint16)
    edge_count = rng.integers(0, 12, num_molecules).astype(np.uint16)
    node_features = rng.integers(0, 5, (node_count.sum(), 9)).astype(np.uint8)
    node_features[:, 0] = np.repeat(np.arange(num_molecules), node_count)
    ends = (
        rng.random((edge_count.sum(), 2)) * np.repeat(node_count, edge_count)[:, None]
    )
    edge_features = rng.integers(0, 4, (edge_count.sum(), 3)).astype(np.uint8)
    edge_features[:, 0] = np.repeat(np.arange(num_molecules), edge_count)
    return {
        'node_count': node_count,
        'edge_count': edge_count,
        'node_features': node_features,
        'edge_features': edge_features,
        'edge_index': ends.astype(np.uint16),
        'labels': rng.integers(-1, 2, (num_molecules, NUM_TASKS)).astype(np.int8),
        'split': np.repeat([0, 1, 2], [num_molecules - 8, 4, 4]).astype(np.uint8),
        'task_names': np.array([f'task{i}'.encode() for i in range(NUM_TASKS)]),
    }


def small_dataset(num_molecules: int = 40, seed: int = 0) -> MoleculeDataset:
    return from_arrays(small_arrays(num_molecules, seed))
