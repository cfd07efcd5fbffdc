import dataclasses
import itertools
import json

import pytest

from experiments import long_schedules
from experiments.compare import hyperparameters_of
from experiments.time_to_target.methods import METHODS
from experiments.variations.results import Results
from submission.settings import Settings
from tests.experiments.time_to_target.records import make_record
from tests.test_tuning_search_space import PATH as SEARCH_SPACE

WORKLOAD = 'ogbg_chembl'


POINTS = {point.name: point for point in long_schedules.points(WORKLOAD, 4.0)}


def record(name, seed, validation):
    trial = POINTS[name].trial(WORKLOAD, 'pytorch', seed)
    made = make_record(steps=(1500, 3000, 4500, 6000))
    return dataclasses.replace(made, trial=trial, validation=validation)


def table(records, seeds=(0, 1)):
    by_key = {record.trial.key: record for record in records}
    results = Results(WORKLOAD, 'pytorch', seeds, 0.5, 'precision', by_key)
    text = long_schedules.format_table(results, 1500, 4.0)
    header, _, *rows = (line.strip('| ').split(' | ') for line in text.splitlines())
    return header, rows


RECORDS = [
    record(name, seed, [0.5, 0.6, last - 0.01, last])
    for name, lasts in {
        'K-FAC: exponent 0': (0.7126, 0.72),
        'K-FAC: exponent 0.5': (0.71, 0.73),
        'K-FAC: exponent 1': (0.8, 0.8),
        'NAdamW: weight decay 0.1': (0.6, 0.72),
        'Muon: weight decay 0.1': (0.73, 0.75),
    }.items()
    for seed, last in enumerate(lasts)
]


def settings_of(name):
    return Settings.from_hyperparameters(POINTS[name].hyperparameters)


def test_points_of_kfac_differ_in_one_thing_but_for_the_exponent():
    kfac = {
        name: settings_of(name) for name in POINTS if name.startswith('K-FAC: exponent')
    }
    assert [s.weight_decay_exponent for s in kfac.values()] == [0, 0.5, 1, 1, 1, 1, 1]
    assert [s.dropout_rate for s in kfac.values()] == [0, 0, 0, 0.1, 0, 0, 0]
    assert [s.label_smoothing for s in kfac.values()] == [0, 0, 0, 0, 0.1, 0, 0]
    assert [s.approximation for s in kfac.values()] == 6 * ['reduce'] + ['expand']
    for each in kfac.values():
        assert each.statistics_interval == each.inverse_interval
        back = dataclasses.replace(
            each,
            weight_decay_exponent=0.0,
            dropout_rate=0.0,
            label_smoothing=0.0,
            statistics_interval=10,
            inverse_interval=10,
            approximation='reduce',
        )
        assert back == settings_of('K-FAC: exponent 0')


def test_the_five_points_differ_from_what_algoperf_gets_in_length_alone():
    five = json.loads(SEARCH_SPACE.read_text())
    names = [name for name in POINTS if name.endswith('of five')]
    assert len(names) == len(five)
    for name, point in zip(names, five, strict=True):
        assert POINTS[name].hyperparameters == {**point, 'step_hint_factor': 4.0}


def test_nadamw_is_the_reference_but_for_length_and_weight_decay():
    nadamw = {name: settings_of(name) for name in POINTS if name.startswith('NAdamW')}
    reference = Settings.from_hyperparameters(hyperparameters_of('nadamw', WORKLOAD))
    assert len(nadamw) == 2
    for name, each in nadamw.items():
        decay = float(name.split()[-1])
        assert each == dataclasses.replace(
            reference, step_hint_factor=4.0, weight_decay=decay
        )


@pytest.mark.parametrize('workload', [WORKLOAD, 'imagenet_vit_fashion_mnist'])
def test_rivals_are_at_the_point_that_was_fastest_with_two_weight_decays(workload):
    points = [
        point
        for point in long_schedules.points(workload, 4.0)
        if point.method in ('soap', 'muon')
    ]
    assert [point.trial(workload, 'pytorch', 0).submission for point in points] == (
        4 * ['rivals']
    )
    for own, less in itertools.pairwise(points):
        if own.method != less.method:
            continue
        five = METHODS[own.method].points
        (found,) = (
            p
            for p in five
            if {**p, 'step_hint_factor': 4.0} == dict(own.hyperparameters)
        )
        decay = found['weight_decay'] * found['step_hint_factor'] / 4.0
        assert less.hyperparameters == {**own.hyperparameters, 'weight_decay': decay}


def test_table():
    header, rows = table(RECORDS)
    assert header[2:] == [
        'after 0.25 of 6000 steps',
        'after 0.5 of 6000 steps',
        'after 0.75 of 6000 steps',
        'after 1 of 6000 steps',
        'steps to 0.712',
        'steps to 0.600',
        'steps to 0.730',
    ]
    assert [row[:2] for row in rows] == [
        ['K-FAC: exponent 0', '0.2'],
        ['K-FAC: exponent 0.5', '0.0816'],
        ['K-FAC: exponent 1', '0.0333'],
        ['NAdamW: weight decay 0.1', '0.1'],
        ['Muon: weight decay 0.1', '0.1'],
    ]
    assert rows[0][2:] == [
        '0.5000, 0.5000',
        '0.6000, 0.6000',
        '0.7026, 0.7100',
        '0.7126, 0.7200',
        '6000 (6000, 6000)',
        '4500 (4500, 4500)',
        '- (-, -)',
    ]
    assert [row[-3] for row in rows[1:]] == [
        '- (-, 4500)',
        '4500 (4500, 4500)',
        '- (-, 6000)',
        '4500 (4500, 4500)',
    ]


def test_the_first_point_has_to_be_there_and_others_are_left_out():
    with pytest.raises(ValueError, match=r'exponent 0 .* the seeds 0; train'):
        table(RECORDS[1:])
    of_exponents = [r for r in RECORDS if r.trial.method == 'kfac_reduce']
    header, rows = table(of_exponents)
    assert header[-1] == 'steps to 0.712'
    assert [row[0] for row in rows] == [
        f'K-FAC: exponent {exponent}' for exponent in ('0', '0.5', '1')
    ]
