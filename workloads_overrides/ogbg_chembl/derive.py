"""Derives the split and the binary tasks from molecules and measured activities."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

SPLITS = ('train', 'validation', 'test')
THRESHOLDS = (6.5, 7.0, 7.5, 8.0, 8.5)
_MIN_PER_CLASS = 2


class Task(NamedTuple):
    """Whether a molecule's activity in an assay reaches a threshold."""

    assay: str
    threshold: float

    @property
    def name(self) -> str:
        """For example `CHEMBL204_Ki>=7.5`."""
        return f'{self.assay}>={self.threshold:g}'


def scaffold_split(scaffolds: Sequence[str]) -> np.ndarray:
    """Splits molecules 80/10/10 so that no scaffold is in two parts.

    The largest scaffolds come first and so go to the training part. Equally
    large ones are ordered by a hash: alphabetical order would put different
    kinds of scaffold into validation and test, the order of the files different
    assays.

    Args:
        scaffolds: one scaffold for each molecule.

    Returns:
        The part of each molecule, uint8 `[n]`, an index into `SPLITS`.
    """
    members: dict[str, list[int]] = {}
    for molecule, scaffold in enumerate(scaffolds):
        members.setdefault(scaffold, []).append(molecule)

    def order(scaffold: str) -> tuple[int, str]:
        digest = hashlib.sha256(scaffold.encode()).hexdigest()
        return -len(members[scaffold]), digest

    total = len(scaffolds)
    split = np.zeros(total, np.uint8)
    num_train = num_validation = 0
    for scaffold in sorted(members, key=order):
        group = members[scaffold]
        if 10 * (num_train + len(group)) <= 8 * total:
            part = 0
            num_train += len(group)
        elif 10 * (num_train + num_validation + len(group)) <= 9 * total:
            part = 1
            num_validation += len(group)
        else:
            part = 2
        split[group] = part
    return split


def _scarcest_count(active: np.ndarray, split: np.ndarray) -> int:
    """Returns the smallest number of examples of a class in any part."""
    return min(
        int(np.sum(active[split == part] == value))
        for part in range(len(SPLITS))
        for value in (False, True)
    )


def select_tasks(
    activities: Mapping[str, tuple[np.ndarray, np.ndarray]],
    split: np.ndarray,
    num_tasks: int,
) -> list[Task]:
    """Chooses the pairs of assay and threshold that become tasks.

    A pair qualifies with at least two positives and two negatives in each part.
    If more than `num_tasks` qualify, those whose scarcest class in any part is
    largest are kept, since their average precision is the least noisy. Ties go
    to the assay with more molecules, then to assay name and threshold.

    Args:
        activities: assay to (molecule indices `[m]`, pK `[m]`).
        split: part of each molecule, `[n]`.
        num_tasks: how many tasks to keep.

    Returns:
        The tasks, ordered by assay and threshold.
    """
    ranked = []
    for assay, (molecules, pk) in activities.items():
        for threshold in THRESHOLDS:
            scarcest = _scarcest_count(pk >= threshold, split[molecules])
            if scarcest >= _MIN_PER_CLASS:
                ranked.append((-scarcest, -len(molecules), assay, threshold))
    if len(ranked) < num_tasks:
        raise ValueError(
            f'{len(ranked)} pairs of assay and threshold qualify as tasks; '
            f'{num_tasks} are needed.'
        )
    return sorted(Task(*entry[2:]) for entry in sorted(ranked)[:num_tasks])


def label_matrix(
    activities: Mapping[str, tuple[np.ndarray, np.ndarray]],
    tasks: Sequence[Task],
    num_molecules: int,
) -> np.ndarray:
    """Returns labels 0 and 1, -1 where unmeasured, int8 `[n, num_tasks]`."""
    labels = np.full((num_molecules, len(tasks)), -1, np.int8)
    for column, task in enumerate(tasks):
        molecules, pk = activities[task.assay]
        labels[molecules, column] = pk >= task.threshold
    return labels
