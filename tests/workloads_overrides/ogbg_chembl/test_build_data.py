import subprocess
import sys
import zipfile

import numpy as np
import pytest

from workloads_overrides.ogbg_chembl import build_data
from workloads_overrides.ogbg_chembl.dataset import load_dataset
from workloads_overrides.ogbg_chembl.featurise import featurise


def test_ethanol():
    pytest.importorskip('rdkit')
    graph = featurise('CCO')
    # Atomic number less 1, chirality, degree, charge + 5, hydrogens, radicals,
    # hybridisation (SP, SP2, SP3, ...), aromatic, in a ring.
    assert graph.atoms.tolist() == [
        [5, 0, 4, 5, 3, 0, 2, 0, 0],
        [5, 0, 4, 5, 2, 0, 2, 0, 0],
        [7, 0, 2, 5, 1, 0, 2, 0, 0],
    ]
    assert graph.bond_ends.tolist() == [[0, 1], [1, 2]]
    assert graph.bonds.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert graph.scaffold == ''


def test_charges_chirality_double_bonds_and_rings():
    pytest.importorskip('rdkit')
    alanine = featurise('C[C@H]([NH3+])C(=O)[O-]')
    assert alanine.atoms[1].tolist() == [5, 2, 4, 5, 1, 0, 2, 0, 0]
    assert alanine.atoms[2].tolist() == [6, 0, 4, 6, 3, 0, 2, 0, 0]
    assert alanine.atoms[5, 3] == 4
    assert sorted(alanine.bonds.tolist())[-1] == [1, 0, 1]

    assert featurise('F/C=C/F').bonds.tolist() == [[0, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert featurise('F/C=C\\F').bonds[1].tolist() == [1, 1, 0]

    pyridine = featurise('Cc1ccncc1')
    assert pyridine.atoms[4].tolist() == [6, 0, 2, 5, 0, 0, 1, 1, 1]
    assert pyridine.bonds[1].tolist() == [3, 0, 1]
    assert pyridine.scaffold == 'c1ccncc1'


def test_single_atoms_and_nonsense():
    pytest.importorskip('rdkit')
    methane = featurise('C')
    assert methane.atoms.shape == (1, 9)
    assert methane.bonds.shape == (0, 3)
    assert methane.bond_ends.shape == (0, 2)
    with pytest.raises(ValueError, match='C1CC'):
        featurise('C1CC')


def test_first_molecule_of_the_committed_data():
    pytest.importorskip('rdkit')
    dataset = load_dataset()
    smiles = 'Nc1[nH]cnc2nnc(-c3ccc(Cl)cc3)c1-2'
    graph = featurise(smiles)
    num_atoms, num_bonds = len(graph.atoms), len(graph.bonds)
    assert dataset.node_counts[0] == num_atoms
    assert dataset.edge_counts[0] == 2 * num_bonds
    np.testing.assert_array_equal(dataset.nodes[:num_atoms], graph.atoms)
    np.testing.assert_array_equal(dataset.edges[:num_bonds], graph.bonds)
    ends = np.column_stack([dataset.senders, dataset.receivers])[:num_bonds]
    np.testing.assert_array_equal(ends, graph.bond_ends)


def test_missing_rdkit_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rdkit', None)
    with pytest.raises(ImportError, match='molecules'):
        featurise('CCO')


def test_other_wheel_is_refused(tmp_path):
    path = tmp_path / 'other.whl'
    with pytest.raises(FileNotFoundError, match=r'--archive.*other\.whl'):
        build_data.check_wheel(path)
    path.write_bytes(b'other')
    with pytest.raises(ValueError, match=r'other\.whl.*SHA-256'):
        build_data.check_wheel(path)


@pytest.mark.parametrize('content', [None, b'other'])
def test_a_wrong_archive_is_an_error_without_a_traceback(tmp_path, content):
    pytest.importorskip('rdkit')
    path = tmp_path / 'other.whl'
    if content is not None:
        path.write_bytes(content)
    module = 'workloads_overrides.ogbg_chembl.build_data'
    done = subprocess.run(
        [sys.executable, '-m', module, f'--archive={path}', f'--output={path}.npz'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith('Error: ')
    assert str(path) in done.stderr
    assert done.stderr.count('\n') == 1


def test_activities_are_read_from_the_archive(tmp_path):
    path = tmp_path / 'wheel.zip'
    folder = 'MoleculeACE/Data/benchmark_data/'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('MoleculeACE/other.csv', 'smiles,y\nN,-1\n')
        for number in range(30):
            archive.writestr(
                f'{folder}CHEMBL{number:02}_Ki.csv',
                f'smiles,y\nCC,-2.0\nC{number},-0.5\n',
            )
    smiles, activities = build_data.read_activities(path)
    assert smiles[:3] == ['CC', 'C0', 'C1']
    assert len(smiles) == 31
    assert len(activities) == 30
    molecules, pk = activities['CHEMBL03_Ki']
    assert molecules.tolist() == [0, 4]
    assert pk.tolist() == [7.0, 8.5]


def test_missing_assay_is_an_error(tmp_path):
    path = tmp_path / 'wheel.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('MoleculeACE/Data/benchmark_data/A_Ki.csv', 'smiles,y\nC,1\n')
    with pytest.raises(ValueError, match='1 assays, not 30'):
        build_data.read_activities(path)


def test_changed_content_is_refused():
    pytest.importorskip('rdkit')
    with pytest.raises(ValueError, match=r'SHA-256.*CONTENT_SHA256'):
        build_data.check_content({'labels': np.zeros(3)})
