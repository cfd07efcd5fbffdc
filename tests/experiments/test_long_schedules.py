import dataclasses

import pytest

from experiments import long_schedules
from experiments.variations.results import Results
from submission.settings import Settings
from tests.experiments.time_to_target.records import make_record

WORKLOAD = 'ogbg_chembl'


def record(exponent, seed, validation):
    point = next(
        p
        for p in long_schedules.points(4.0)
        if p.hyperparameters['weight_decay_exponent'] == exponent
    )
    trial = point.trial(WORKLOAD, 'pytorch', seed)
    made = make_record(steps=(1500, 3000, 4500, 6000))
    return dataclasses.replace(made, trial=trial, validation=validation)


def table(records, seeds=(0, 1)):
    by_key = {record.trial.key: record for record in records}
    results = Results(WORKLOAD, 'pytorch', seeds, 0.5, 'precision', by_key)
    text = long_schedules.format_table(results, 1500, 4.0)
    header, _, *rows = (line.strip('| ').split(' | ') for line in text.splitlines())
    return header, rows


RECORDS = [
    record(exponent, seed, [0.5, 0.6, last - 0.01, last])
    for exponent, lasts in {
        0.0: (0.7126, 0.72),
        0.5: (0.71, 0.73),
        1.0: (0.8, 0.8),
    }.items()
    for seed, last in enumerate(lasts)
]


def test_points_are_the_first_of_the_search_space_but_for_length_and_weight_decay():
    settings = [
        Settings.from_hyperparameters(p.hyperparameters)
        for p in long_schedules.points(4.0)
    ]
    assert [s.weight_decay_exponent for s in settings] == [0.0, 0.5, 1.0]
    for each in settings:
        back = dataclasses.replace(
            each,
            step_hint_factor=1.0,
            weight_decay_exponent=Settings.self_tuning().weight_decay_exponent,
        )
        assert back == Settings.self_tuning()


def test_table():
    header, rows = table(RECORDS)
    assert header[2:] == [
        'after 0.25 of 6000 steps',
        'after 0.5 of 6000 steps',
        'after 0.75 of 6000 steps',
        'after 1 of 6000 steps',
        'steps to 0.712',
    ]
    assert [row[:2] for row in rows] == [
        ['0', '0.2'],
        ['0.5', '0.0816'],
        ['1', '0.0333'],
    ]
    assert rows[0][2:] == [
        '0.5000, 0.5000',
        '0.6000, 0.6000',
        '0.7026, 0.7100',
        '0.7126, 0.7200',
        '6000 (6000, 6000)',
    ]
    assert rows[1][-1] == '- (-, 4500)'
    assert rows[2][-1] == '4500 (4500, 4500)'


def test_what_is_missing_is_named():
    with pytest.raises(
        ValueError, match=r'weight_decay_exponent 1 .* the seeds 1; train'
    ):
        table(RECORDS[:-1])
