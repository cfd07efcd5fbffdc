"""Makes `data/chembl_molecules.npz` from the wheel of MoleculeACE.

Usage:
    python -m workloads_overrides.ogbg_chembl.build_data \
        [--archive WHEEL] [--output FILE]

The result is committed, so this need only run to check where it comes from or
to change it. It takes about a minute and needs the extra `molecules`.
"""

import csv
import hashlib
import io
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence

import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from workloads_overrides.ogbg_chembl import dataset as dataset_lib
from workloads_overrides.ogbg_chembl import derive
from workloads_overrides.ogbg_chembl.featurise import (
    MoleculeGraph,
    featurise,
    import_rdkit,
)

REQUIREMENT = 'MoleculeACE==3.0.0'
WHEEL_SHA256 = 'c2028c9a75281eab53d3b3e7dc11cbc8ac970d008bac4a0d3927f11ac2024bdc'
MAX_BYTES = 2_000_000

_CSV_FOLDER = 'MoleculeACE/Data/benchmark_data/'
_NUM_ASSAYS = 30

Activities = dict[str, tuple[np.ndarray, np.ndarray]]


def download_wheel(folder: pathlib.Path) -> pathlib.Path:
    """Downloads the wheel with pip, from wherever pip is set up to look."""
    # Without its dependencies: only the data files in the archive are wanted.
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps']
    command += ['--dest', str(folder), REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob('*.whl'))
    if result.returncode or len(wheels) != 1:
        raise RuntimeError(
            f'pip could not download {REQUIREMENT}; pass the wheel with --archive. '
            f'pip said:\n{result.stderr.strip()}'
        )
    return wheels[0]


def check_wheel(path: pathlib.Path) -> None:
    """Fails unless the file is the wheel this was written for."""
    if not path.is_file():
        raise FileNotFoundError(f'--archive: no file at {path}.')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise ValueError(
            f'{path} has SHA-256 {digest}, expected {WHEEL_SHA256}: it is not the '
            f'wheel of {REQUIREMENT}.'
        )


def read_activities(path: pathlib.Path) -> tuple[list[str], Activities]:
    """Reads the measured activities from the CSV files inside the wheel.

    Returns:
        The distinct SMILES in order of appearance, and a dictionary from assay to
        (indices of the molecules, their pK).
    """
    positions: dict[str, int] = {}
    activities: Activities = {}
    with zipfile.ZipFile(path) as archive:
        names = sorted(
            name
            for name in archive.namelist()
            if name.startswith(_CSV_FOLDER) and name.endswith('.csv')
        )
        if len(names) != _NUM_ASSAYS:
            raise ValueError(f'{path} holds {len(names)} assays, not {_NUM_ASSAYS}.')
        for name in names:
            with archive.open(name) as raw:
                rows = list(csv.DictReader(io.TextIOWrapper(raw, encoding='utf-8')))
            molecules = [
                positions.setdefault(row['smiles'], len(positions)) for row in rows
            ]
            # The files give y = -log10 of a concentration in nM, pK is in M.
            pk = np.array([9.0 + float(row['y']) for row in rows])
            activities[pathlib.PurePosixPath(name).stem] = (np.array(molecules), pk)
    return list(positions), activities


def to_arrays(graphs: Sequence[MoleculeGraph], activities: Activities) -> dict:
    """Returns the arrays of the archive (see `dataset.ARRAY_DTYPES`)."""
    split = derive.scaffold_split([graph.scaffold for graph in graphs])
    tasks = derive.select_tasks(activities, split, dataset_lib.NUM_TASKS)
    labels = derive.label_matrix(activities, tasks, len(graphs))
    return {
        'node_count': np.array([len(graph.atoms) for graph in graphs], np.uint16),
        'edge_count': np.array([len(graph.bonds) for graph in graphs], np.uint16),
        'node_features': np.concatenate([graph.atoms for graph in graphs]),
        'edge_features': np.concatenate([graph.bonds for graph in graphs]),
        'edge_index': np.concatenate([graph.bond_ends for graph in graphs]),
        'labels': labels,
        'split': split,
        'task_names': np.array([task.name.encode() for task in tasks]),
    }


def check_content(arrays: dict[str, np.ndarray]) -> None:
    """Fails unless the arrays are those of the committed file."""
    digest = dataset_lib.content_hash(arrays)
    if digest != dataset_lib.CONTENT_SHA256:
        import_rdkit()
        import rdkit

        raise ValueError(
            f'The arrays have SHA-256 {digest}, expected '
            f'{dataset_lib.CONTENT_SHA256}. Another RDKit version (this is '
            f'{rdkit.__version__}) may perceive molecules differently. If the '
            'change is meant, set dataset.CONTENT_SHA256 and commit the new file; '
            'results from before are then not comparable.'
        )


def describe(arrays: dict[str, np.ndarray]) -> str:
    """Returns the counts worth knowing, one on a line."""
    labels = arrays['labels']
    filled = labels >= 0
    sizes = np.bincount(arrays['split'], minlength=len(derive.SPLITS))
    assays = {name.split(b'>=')[0] for name in arrays['task_names'].tolist()}
    return '\n'.join(
        [f'{name}: {sizes[part]} molecules' for part, name in enumerate(derive.SPLITS)]
        + [
            f'tasks: {labels.shape[1]} from {len(assays)} assays',
            f'filled: {filled.mean():.2%} of the labels, '
            f'{filled.sum() / len(labels):.2f} a molecule',
            f'positive: {(labels == 1).sum() / filled.sum():.1%} of the filled labels',
            f'atoms: {arrays["node_count"].mean():.2f} a molecule, '
            f'at most {arrays["node_count"].max()}',
            f'bonds: {arrays["edge_count"].mean():.2f} a molecule, '
            f'at most {arrays["edge_count"].max()}',
        ]
    )


def build(archive: pathlib.Path, output: pathlib.Path) -> None:
    """Makes the data file from the wheel and checks it."""
    check_wheel(archive)
    smiles, activities = read_activities(archive)
    graphs = [featurise(text) for text in tqdm(smiles, desc='featurise', unit='mol')]
    arrays = to_arrays(graphs, activities)
    logging.info('%s', describe(arrays))
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open('wb') as file:
        np.savez_compressed(file, **arrays)
    size = output.stat().st_size
    logging.info('%s: %d bytes', output, size)
    if size > MAX_BYTES:
        raise ValueError(f'{output} has {size} bytes, more than {MAX_BYTES}.')
    check_content(arrays)


def main(argv: Sequence[str]) -> None:
    """Runs `build` on the flags."""
    if len(argv) > 1:
        raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
    output = pathlib.Path(flags.FLAGS.output)
    try:
        import_rdkit()  # Before the download, so that a missing RDKit shows at once.
        if flags.FLAGS.archive:
            build(pathlib.Path(flags.FLAGS.archive), output)
            return
        with tempfile.TemporaryDirectory() as folder:
            build(download_wheel(pathlib.Path(folder)), output)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f'Error: {error}')


if __name__ == '__main__':
    # Defined here so that importing this module adds no flags to a program.
    flags.DEFINE_string('archive', None, f'The wheel {REQUIREMENT}, if at hand.')
    flags.DEFINE_string('output', str(dataset_lib.DEFAULT_PATH), 'Where to write.')
    app.run(main)
