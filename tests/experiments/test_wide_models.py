import dataclasses

import pytest

from experiments import trials, wide_models
from experiments.variations.results import Results
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
    by_key = {record.trial.key: record for record in records}
    results = Results(WORKLOAD, 'pytorch', seeds, 0.5, 'accuracy', by_key)
    text = wide_models.format_table(results)
    rows = [line.strip('| ').split(' | ') for line in text.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def test_what_is_trained():
    points = wide_models.all_points(WORKLOAD)
    settings = {
        p.name: Settings.from_hyperparameters(p.hyperparameters) for p in points
    }
    assert points[-20:] == [
        point
        for title in (
            'of five',
            'of one weight decay',
            'with an exponent',
            'of the spectral rule',
        )
        for point in wide_models.five_points(title)
    ]
    whole, half = settings['NAdamW'], settings['NAdamW at half the rate']
    assert whole == dataclasses.replace(half, learning_rate=2 * half.learning_rate)
    assert settings['K-FAC-reduce'].fan_in_exponent == 0
    assert points[-20].name == 'point 1 of five'
    assert settings['point 1 of five'] == Settings.self_tuning()
    assert {
        settings[point.name].first_order_rule
        for point in wide_models.five_points('of the spectral rule')
    } == {'spectral'}
    trial = points[-10].trial(WORKLOAD, 'pytorch', 3)
    assert (trial.method, trial.seed) == ('kfac_reduce', 3)


def test_points_with_one_weight_decay_are_the_five_without_an_exponent_of_it():
    now, before = (
        [
            Settings.from_hyperparameters(point.hyperparameters)
            for point in wide_models.five_points(title)
        ]
        for title in ('of five', 'of one weight decay')
    )
    assert [
        dataclasses.replace(each, weight_decay_exponent=0.0) for each in now
    ] == before


def test_table_has_what_all_seeds_were_trained_at():
    records = [
        record('NAdamW', 0, 30),
        record('NAdamW', 1, None),
        record('K-FAC-reduce', 0, 10),
        *[
            record(f'point {number} with an exponent', seed, reaches_at)
            for number in range(1, 6)
            for seed, reaches_at in enumerate([None, 10] if number == 2 else [20, 20])
        ],
        record('point 1 of five', 0, 20),
    ]
    found = table(records)
    assert found['NAdamW'] == ['none', '0.004', '0', '1', '-', '- (30, -)']
    assert found['point 1 with an exponent'][-1] == '20 (20, 20)'
    assert found['point 2 with an exponent'][-1] == '- (-, 10)'
    best = 'best point with an exponent, of each seed'
    assert found[best] == [''] * 5 + ['15 (20, 10)']
    assert len(found) == 7
    found = table(records, seeds=[0])
    assert found['K-FAC-reduce'][-1] == '10 (10)'
    assert found['point 1 of five'][4:] == ['16', '20 (20)']


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
