import json

import pytest

from experiments.step_time import __main__ as step_time
from experiments.step_time import memory, tables
from experiments.step_time.results import Results
from experiments.step_time.variants import NADAMW, points

WORKLOAD = 'imagenet_vit_fashion_mnist'


def test_measures_writes_and_reports(tmp_path, monkeypatch):
    asked = []

    def peak(workload, framework, method, batch_size, num_threads):
        asked.append(method)
        assert (workload, framework, batch_size, num_threads) == (
            WORKLOAD,
            'pytorch',
            4,
            1,
        )
        return {'before_mib': 1.0, 'peak_mib': 3.0, 'added_mib': 2.0}

    monkeypatch.setattr(memory, 'measure', peak)
    results = Results.open(tmp_path / 'some_pytorch.json', {})

    def measure():
        step_time.measure_all(WORKLOAD, 'pytorch', 4, 1, 1, results)

    measure()
    assert asked == list(points())
    summary = results.parts['steps']['summary']
    assert list(summary) == list(points())
    kfac = summary['expand, monte_carlo']
    assert list(kfac) == [
        'plain',
        'factors',
        'statistics',
        'every 1',
        'every 10',
        'every 1, inverses every 10',
        'every 50',
    ]
    text = (tmp_path / 'some_pytorch.json').read_text()
    assert json.loads(text)['parts'] == results.parts
    # Nothing is missing any more.
    measure()
    assert asked == list(points())
    report = step_time.report(Results.load(results.path), 'Some workload')
    for name in points():
        assert name in report
    assert 'derived' in report
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'some_pytorch.json',
        'some_pytorch_breakdown.png',
        'some_pytorch_intervals.png',
    ]


def test_parts_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, 'measure', lambda *_: {'peak_mib': 3.0})
    results = Results.open(tmp_path / 'some_pytorch.json', {})
    step_time.measure_all(WORKLOAD, 'pytorch', 4, 1, 1, results, ['memory'])
    assert list(results.parts) == [f'memory, {method}' for method in points()]
    assert '3.0' in step_time.report(results, 'Some workload', ['memory'])
    assert [path.name for path in tmp_path.iterdir()] == ['some_pytorch.json']


def test_report_names_what_is_missing(tmp_path):
    results = Results(tmp_path / 'some.json', {}, {'steps': {}})
    with pytest.raises(ValueError, match=r"some\.json lacks \['breakdown', 'memory, n"):
        step_time.report(results, 'Some workload')
    assert list(tmp_path.iterdir()) == []


def test_table_of_exponents():
    table = tables.of_exponents(
        {'width': {'inverses': 3.0}, 'depth': {'inverses': None}}
    )
    rows = [[c.strip() for c in line.split('|')] for line in table.splitlines()]
    assert [rows[0], *rows[2:]] == [
        ['exponent in', 'width', 'depth'],
        ['inverses', '3.00', '-'],
    ]


def test_table_names_what_was_compiled():
    values = {
        'milliseconds': 1.0,
        'milliseconds_quartiles': [1.0, 1.0],
        'ratio': 1.0,
        'ratio_quartiles': [1.0, 1.0],
        'derived': False,
    }
    table = tables.of_steps({NADAMW: {'plain': values}}, {NADAMW: {'0': 2.5}})
    assert 'compiled for nadamw: 2.5 s at step 0' in table
