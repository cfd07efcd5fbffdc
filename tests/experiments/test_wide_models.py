import dataclasses

import pytest

from experiments import trials, wide_models
from submission.settings import Settings
from tests.experiments.time_to_target.records import make_record

WORKLOAD = 'imagenet_vit_fashion_mnist_wide'


def record(name, seed, reaches_at):
    """A record whose metric passes 0.5 after some steps."""
    found = make_record('kfac', 0, seed, reaches_at)
    (point,) = [p for p in wide_models.all_points(WORKLOAD) if p.name == name]
    trial = point.trial(WORKLOAD, 'pytorch', seed)
    return dataclasses.replace(found, trial=trial)


def table(records, seeds=(0, 1)):
    text = wide_models.format_table(records, WORKLOAD, seeds, 0.5)
    rows = [line.strip('| ').split(' | ') for line in text.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def test_what_is_trained():
    points = wide_models.all_points(WORKLOAD)
    settings = {
        p.name: Settings.from_hyperparameters(p.hyperparameters) for p in points
    }
    assert points[-5:] == wide_models.tuning_points()
    whole, half = settings['NAdamW'], settings['NAdamW, half the rate']
    assert whole == dataclasses.replace(half, learning_rate=2 * half.learning_rate)
    assert settings['K-FAC-reduce'].fan_in_exponent == 0
    assert points[-5].name == 'point 1 of five'
    trial = points[-5].trial(WORKLOAD, 'pytorch', 3)
    assert (trial.method, trial.seed) == ('kfac_reduce', 3)


def test_table_has_what_all_seeds_were_trained_at():
    records = [
        record('NAdamW', 0, 30),
        record('NAdamW', 1, None),
        record('K-FAC-reduce', 0, 10),
        record('point 1 of five', 0, 20),
        record('point 1 of five', 1, 20),
        record('point 2 of five', 0, None),
        record('point 2 of five', 1, 10),
    ]
    found = table(records)
    assert found == {
        'NAdamW': ['0.004', '0', '- (30, -)'],
        'point 1 of five': ['0.01', '1', '20 (20, 20)'],
        'point 2 of five': ['0.01', '0.5', '- (-, 10)'],
        'best of the five of each seed': ['', '', '15 (20, 10)'],
    }
    assert 'K-FAC-reduce' in table(records, seeds=[0])


def test_nothing_trained():
    with pytest.raises(ValueError, match='No point has been trained on imagenet_vit'):
        table([])


def test_recorded_points_are_those_of_now():
    """Others would be missing from the table without a word."""
    for path in wide_models.RESULTS.glob('*.jsonl'):
        for found in trials.load_records(path):
            trial = found.trial
            points = wide_models.all_points(trial.workload)
            assert trial.hyperparameters in [p.hyperparameters for p in points], path
