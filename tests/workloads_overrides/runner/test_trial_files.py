"""Damaged files of a trial are named, with what to do about them."""

import json

import pytest

from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.results import read_result
from workloads_overrides.runner.search_space import as_hyperparameters
from workloads_overrides.runner.trial_files import keep_hyperparameters, keep_seed

POINT = as_hyperparameters({'learning_rate': 0.1})


def write_truncated(path, content):
    path.write_text(json.dumps(content)[:-5])


def test_damaged_hyperparameters_of_a_trial_with_checkpoints(tmp_path):
    path = tmp_path / 'hparams.json'
    write_truncated(path, {'learning_rate': 0.125})
    (tmp_path / 'checkpoint_3').touch()
    with pytest.raises(RunnerError, match=r'hparams\.json is not valid JSON .*Put'):
        keep_hyperparameters(tmp_path, POINT)


def test_hyperparameters_of_a_trial_without_checkpoints_are_written_again(tmp_path):
    path = tmp_path / 'hparams.json'
    write_truncated(path, {'learning_rate': 0.125})
    assert keep_hyperparameters(tmp_path, POINT) == POINT
    assert json.loads(path.read_text()) == POINT._asdict()


@pytest.mark.parametrize('content', ['', '{"rng_se', '{}'])
def test_a_damaged_seed(tmp_path, content):
    (tmp_path / 'meta_data_0.json').write_text(content)
    with pytest.raises(RunnerError, match=r'meta_data_0\.json .*with the rng_seed of'):
        keep_seed(tmp_path, None)


@pytest.mark.parametrize('content', ['', '{"compilations": [', '{}', '[]'])
def test_a_damaged_result(tmp_path, content):
    (tmp_path / 'result.json').write_text(content)
    with pytest.raises(RunnerError, match=r'result\.json .*Delete it;'):
        read_result(tmp_path)
