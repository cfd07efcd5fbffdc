import json
import subprocess
import sys

import pytest

from workloads_overrides.algoperf_data import molecules
from workloads_overrides.algoperf_data.errors import DataError

SIZES = {'train': 5, 'validation': 4, 'test': 3}


def command(*flags):
    return subprocess.run(
        [sys.executable, '-m', 'workloads_overrides.algoperf_data', *flags],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_wrong_number_is_an_error_without_a_traceback(tmp_path):
    done = command('--dataset=ogbg', f'--data_dir={tmp_path}', '--num_test=0')
    assert done.returncode == 1
    assert 'Error: --num_test is 0' in done.stderr
    assert 'Traceback' not in done.stderr


def test_it_says_what_was_written_and_with_what_sizes(tmp_path):
    pytest.importorskip('tensorflow_datasets', reason='needs the extra algoperf-data')
    flags = [f'--num_{split}={size}' for split, size in SIZES.items()]
    done = command('--dataset=ogbg', f'--data_dir={tmp_path}', *flags)
    folder = tmp_path / 'ogbg/ogbg_molpcba/0.1.3'
    assert done.returncode == 0, done.stderr[-3000:]
    assert f'Written: {folder}' in done.stdout
    info = json.loads((folder / 'dataset_info.json').read_text())
    assert {
        split['name']: int(split['shardLengths'][0]) for split in info['splits']
    } == (SIZES)
    assert 'ChEMBL' in info['description']


def test_existing_data_stays_unless_it_is_to_be_replaced(tmp_path):
    pytest.importorskip('tensorflow_datasets', reason='needs the extra algoperf-data')
    (written,) = molecules.write(tmp_path, SIZES)
    with pytest.raises(DataError, match=r'exists already; .*--overwrite'):
        molecules.write(tmp_path, SIZES)
    molecules.write(tmp_path, {**SIZES, 'train': 7}, overwrite=True)
    info = json.loads((written / 'dataset_info.json').read_text())
    assert info['splits'][0]['shardLengths'] == ['7']
