"""Hashes of Murcko scaffolds, worked out from the stored graphs without RDKit."""

import numpy as np

from workloads_overrides.ogbg_chembl.dataset import MoleculeDataset

_DOUBLE = 1  # index of the double bond among OGB's bond types


def _mix(values: np.ndarray) -> np.ndarray:
    """Scrambles 64-bit words (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _sum_by(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    result = np.zeros(size, np.uint64)
    np.add.at(result, index, values)
    return result


def scaffold_hashes(dataset: MoleculeDataset, rounds: int = 12) -> np.ndarray:
    """Returns a hash of each molecule's rings and linkers, 0 if it has no ring."""
    molecule = np.repeat(np.arange(len(dataset.split)), dataset.node_counts)
    first = np.repeat(dataset.node_offsets[:-1], dataset.edge_counts)
    senders, receivers = dataset.senders + first, dataset.receivers + first
    size = len(dataset.nodes)

    # Rings and linkers are what remains when ends are cut off again and again.
    kept = np.ones(size, bool)
    while True:
        inner = kept[senders] & kept[receivers]
        ends = kept & (np.bincount(senders[inner], minlength=size) <= 1)
        if not ends.any():
            break
        kept &= ~ends
    # Atoms double bonded to them belong to the scaffold as well.
    double = dataset.edges[:, 0] == _DOUBLE
    kept[receivers[double & kept[senders]]] = True

    inner = kept[senders] & kept[receivers]
    cut = np.bincount(senders[kept[senders] & ~kept[receivers]], minlength=size)
    hydrogens = dataset.nodes[:, 4] + cut
    columns = [dataset.nodes[:, 0], dataset.nodes[:, 3], dataset.nodes[:, 7], hydrogens]
    state = np.zeros(size, np.uint64)
    for column in columns:
        state = _mix(state * np.uint64(31) + column.astype(np.uint64) + np.uint64(1))
    bond = _mix(dataset.edges[inner, 0].astype(np.uint64) + np.uint64(7))
    for _ in range(rounds):
        messages = _mix(state[receivers[inner]] + bond)
        state = _mix(state * np.uint64(3) + _sum_by(senders[inner], messages, size))
    return _sum_by(molecule[kept], state[kept], len(dataset.split))
