"""The committed molecules as the TFDS data set `ogbg_molpcba`."""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from workloads_overrides.algoperf_data import tfds_store
from workloads_overrides.algoperf_data.selection import spread
from workloads_overrides.ogbg_chembl.dataset import MoleculeDataset, load_dataset
from workloads_overrides.ogbg_chembl.derive import SPLITS

NAME = 'ogbg_molpcba'
VERSION = '0.1.3'
# AlgoPerf's own layout below its data folder.
SUBFOLDER = 'ogbg'

_DESCRIPTION = (
    'Not ogbg-molpcba: molecules with measured activities in 30 assays of ChEMBL, as '
    '128 binary tasks, in the format of ogbg-molpcba so that its loaders read them.'
)
_CITATION = 'ChEMBL, CC BY-SA 3.0, by way of MoleculeACE 3.0.0.'


def example(dataset: MoleculeDataset, graph: int) -> tfds_store.Example:
    """Returns a molecule with the fields of ogbg-molpcba.

    Args:
        dataset: The molecules.
        graph: Index of the molecule.

    Returns:
        `node_feat` float32 `[n, 9]`, `edge_feat` float32 `[m, 3]`, `edge_index`
        int64 `[m, 2]`, `num_nodes` and `num_edges` int64 `[1]`, `labels` float32
        `[128]` with NaN for what was not measured. Each of the m bonds is there
        once, since AlgoPerf's loader adds the other direction.
    """
    nodes = slice(*dataset.node_offsets[graph : graph + 2])
    first, end = dataset.edge_offsets[graph : graph + 2]
    # A molecule's edges are its bonds followed by the same bonds reversed.
    bonds = slice(first, first + (end - first) // 2)
    labels = dataset.labels[graph]
    return {
        'node_feat': dataset.nodes[nodes],
        'edge_feat': dataset.edges[bonds],
        'edge_index': np.stack(
            [dataset.senders[bonds], dataset.receivers[bonds]], axis=1
        ),
        'num_nodes': np.array([nodes.stop - nodes.start], np.int64),
        'num_edges': np.array([bonds.stop - bonds.start], np.int64),
        'labels': np.where(labels < 0, np.nan, labels).astype(np.float32),
    }


def write(
    data_dir: pathlib.Path,
    num_examples: Mapping[str, int | None],
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """Writes the data set to `<data_dir>/ogbg/ogbg_molpcba/0.1.3`.

    Args:
        data_dir: AlgoPerf's data folder.
        num_examples: Split name (`train`, `validation`, `test`) to the number of
            molecules, None for all.
        overwrite: Whether to replace what is there.

    Returns:
        The folder written.

    Raises:
        DataError: For numbers that a split does not have, or existing files.
    """
    dataset = load_dataset()
    chosen = {
        split: dataset.indices(split)[
            spread(len(dataset.indices(split)), num_examples[split], split)
        ]
        for split in SPLITS
    }
    tfds = tfds_store.import_tfds()
    folder = data_dir / SUBFOLDER
    if overwrite:
        tfds_store.delete(folder / NAME)

    def examples(split: str) -> Iterator[tfds_store.Example]:
        return (example(dataset, graph) for graph in chosen[split])

    return [
        tfds_store.store(
            tfds,
            NAME,
            VERSION,
            {split: examples(split) for split in SPLITS},
            folder,
            _DESCRIPTION,
            _CITATION,
        )
    ]
