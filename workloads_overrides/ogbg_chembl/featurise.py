"""Turns SMILES into the integer graph features of the Open Graph Benchmark.

OGB describes an atom by nine indices and a bond by three. Each index is the
position of the property's value in a fixed list; values off the list share one
last index. The lists below are the ones OGB documents for its `mol` data sets.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

NUM_ATOM_FEATURES = 9
NUM_BOND_FEATURES = 3

_CHIRALITIES = (
    'CHI_UNSPECIFIED',
    'CHI_TETRAHEDRAL_CW',
    'CHI_TETRAHEDRAL_CCW',
    'CHI_OTHER',
)
_HYBRIDISATIONS = ('SP', 'SP2', 'SP3', 'SP3D', 'SP3D2')
_BOND_TYPES = ('SINGLE', 'DOUBLE', 'TRIPLE', 'AROMATIC')
_BOND_STEREOS = (
    'STEREONONE',
    'STEREOZ',
    'STEREOE',
    'STEREOCIS',
    'STEREOTRANS',
    'STEREOANY',
)


class MoleculeGraph(NamedTuple):
    """A molecule with each bond listed once.

    Attributes:
        atoms: uint8 atom features, `[n_atoms, 9]`.
        bonds: uint8 bond features, `[n_bonds, 3]`.
        bond_ends: uint16 indices of the two atoms of each bond, `[n_bonds, 2]`.
        scaffold: SMILES of the molecule's Murcko scaffold, '' if it has no ring.
    """

    atoms: np.ndarray
    bonds: np.ndarray
    bond_ends: np.ndarray
    scaffold: str


def import_rdkit() -> Any:
    """Returns RDKit's `Chem` module, or says how to install it."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Scaffolds import MurckoScaffold  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'RDKit is needed to featurise molecules (not to train on the '
            "committed data): install it with pip install '.[molecules]'."
        ) from error
    rdBase.DisableLog('rdApp.*')
    return Chem


def _position(value: object, allowed: Sequence[object]) -> int:
    return allowed.index(value) if value in allowed else len(allowed)


def atom_features(atom: Any) -> list[int]:
    """Returns OGB's nine feature indices of an RDKit atom."""
    return [
        _position(atom.GetAtomicNum(), range(1, 119)),
        _position(str(atom.GetChiralTag()), _CHIRALITIES),
        _position(atom.GetTotalDegree(), range(11)),
        _position(atom.GetFormalCharge(), range(-5, 6)),
        _position(atom.GetTotalNumHs(), range(9)),
        _position(atom.GetNumRadicalElectrons(), range(5)),
        _position(str(atom.GetHybridization()), _HYBRIDISATIONS),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    ]


def bond_features(bond: Any) -> list[int]:
    """Returns OGB's three feature indices of an RDKit bond."""
    return [
        _position(str(bond.GetBondType()), _BOND_TYPES),
        _position(str(bond.GetStereo()), _BOND_STEREOS),
        int(bond.GetIsConjugated()),
    ]


def featurise(smiles: str) -> MoleculeGraph:
    """Returns the graph of one molecule.

    Args:
        smiles: the molecule; atoms and bonds keep the order RDKit reads them in.

    Raises:
        ValueError: RDKit cannot parse the SMILES.
    """
    chem = import_rdkit()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f'RDKit cannot parse the SMILES {smiles!r}.')
    atoms = [atom_features(atom) for atom in molecule.GetAtoms()]
    bonds = list(molecule.GetBonds())
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds]
    return MoleculeGraph(
        atoms=np.array(atoms, np.uint8).reshape(-1, NUM_ATOM_FEATURES),
        bonds=np.array([bond_features(b) for b in bonds], np.uint8).reshape(
            -1, NUM_BOND_FEATURES
        ),
        bond_ends=np.array(ends, np.uint16).reshape(-1, 2),
        scaffold=MurckoScaffold.MurckoScaffoldSmiles(
            mol=molecule, includeChirality=False
        ),
    )
