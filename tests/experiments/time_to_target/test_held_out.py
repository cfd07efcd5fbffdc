import math
import types

import numpy as np
import pytest

from experiments import trials
from experiments.step_seconds import StepSeconds
from experiments.time_to_target import held_out
from experiments.time_to_target.methods import METHODS
from experiments.time_to_target.recorded import Recorded
from experiments.time_to_target.scores import studies_of
from experiments.time_to_target.step_times import StepTimes
from experiments.trials import Record, Trial
from tests.experiments.time_to_target.records import make_record

LABELS = {'nadamw': 'NAdamW', 'kfac_reduce': 'K-FAC-reduce', 'soap': 'SOAP'}


def results_of(costs, **reaches_at):
    """Results with one trial a seed, which reaches the target at some step, if ever."""
    studies = {
        method: studies_of(
            [
                make_record(method, seed=seed, reaches_at=at)
                for seed, at in enumerate(of_seeds)
            ],
            0.5,
            StepSeconds(costs[method], 0.0) if method in costs else None,
            1,
        )
        for method, of_seeds in reaches_at.items()
    }
    return Recorded(0.5, 'metric', studies, StepTimes({}, {}))


def rows_of(table):
    """The cells of each row, the titles of the columns first."""
    titles, _, *lines = table.splitlines()
    return [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in (titles, *lines)
    ]


def test_tables_of_medians_ratios_and_means():
    timed = {'nadamw': 1.0, 'kfac_reduce': 1.5, 'soap': 2.0}
    results = {
        'one': results_of(
            timed, nadamw=[20, 30, 20], kfac_reduce=[10, 10, 20], soap=[20, 10, 20]
        ),
        'other': results_of(timed, nadamw=[20], kfac_reduce=[10], soap=[None]),
    }
    steps, seconds = held_out.format_tables(results, LABELS).split('\n\n')
    # The fastest first; whoever misses a target is last.
    assert rows_of(steps) == [
        ['Steps', 'K-FAC-reduce', 'NAdamW', 'SOAP'],
        ['one', '10 (0.50)', '20 (1.00)', '20 (1.00)'],
        ['other', '10 (0.50)', '20 (1.00)', 'never'],
        ['geometric mean / NAdamW', '0.50', '1.00', 'never'],
        # Twice the fastest's time is 2 of the 3 from 1 to 4.
        ["AlgoPerf's score", '1.00', '0.67', '0.33'],
    ]
    assert rows_of(seconds) == [
        ['Seconds / NAdamW', 'K-FAC-reduce', 'NAdamW', 'SOAP'],
        ['one', '0.75', '1.00', '2.00'],
        ['other', '0.75', '1.00', 'never'],
        ['geometric mean / NAdamW', '0.75', '1.00', 'never'],
        ["AlgoPerf's score", '1.00', '0.89', '0.22'],
    ]


def test_what_was_not_tried_or_timed_is_not_made_up():
    results = {
        'one': results_of({'nadamw': 1.0}, nadamw=[20], kfac_reduce=[10]),
        'other': results_of({}, nadamw=[30], soap=[10]),
    }
    steps, seconds = held_out.format_tables(results, LABELS).split('\n\n')
    assert rows_of(steps) == [
        ['Steps', 'NAdamW', 'SOAP', 'K-FAC-reduce'],
        ['one', '20 (1.00)', '-', '10 (0.50)'],
        ['other', '30 (1.00)', '10 (0.33)', '-'],
        ['geometric mean / NAdamW', '1.00', '-', '-'],
        ["AlgoPerf's score", '0.50', '-', '-'],
    ]
    assert rows_of(seconds) == [
        ['Seconds / NAdamW', 'NAdamW'],
        ['one', '1.00'],
        ['other', '-'],
        ['geometric mean / NAdamW', '-'],
        ["AlgoPerf's score", '-'],
    ]


def test_nothing_is_compared_with_a_reference_that_never_got_there():
    results = {'one': results_of({}, nadamw=[None], kfac_reduce=[10])}
    (table,) = held_out.format_tables(results, LABELS).split('\n\n')
    columns = map(list, zip(*rows_of(table), strict=True))
    assert sorted(columns) == [
        ['K-FAC-reduce', '10', '-', '1.00'],
        ['NAdamW', 'never', '-', '0.00'],
        ['Steps', 'one', 'geometric mean / NAdamW', "AlgoPerf's score"],
    ]


def test_score_is_the_mean_of_the_performance_profile():
    multiples = [1.0, 1.7, 2.5, 7.0, math.inf]
    taus = np.linspace(1, 4, 30_001)
    profile = np.mean([tau >= np.asarray(multiples) for tau in taus[:, None]], axis=1)
    assert held_out.score(multiples) == pytest.approx(profile.mean(), abs=1e-4)
    assert held_out.score([1.0, None]) is None
    assert held_out.score([]) is None


def test_geometric_mean():
    assert held_out.geometric_mean([0.25, 1.0]) == pytest.approx(0.5)
    assert held_out.geometric_mean([0.25, math.inf]) == math.inf
    assert held_out.geometric_mean([0.25, None]) is None
    assert held_out.geometric_mean([]) is None


@pytest.fixture
def start(tmp_path, monkeypatch):
    values = {'framework': 'pytorch', 'output_dir': str(tmp_path)}
    given = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))
    monkeypatch.setattr(held_out, 'flags', given)
    return held_out.main


def test_reads_held_out_workloads_that_have_records(start, tmp_path, capsys):
    workload = 'imagenet_vit_fashion_mnist_glu'
    for other in (workload, 'ogbg_chembl'):
        for point in METHODS['nadamw'].points:
            trials.append_record(
                tmp_path / f'{other}_pytorch' / 'records.jsonl',
                Record(
                    trial=Trial('nadamw', other, 'pytorch', point, 0),
                    steps=[25, 50],
                    seconds=[1.0, 2.0],
                    validation=[0.1, 1.0],
                    test=[],
                    seconds_per_step=0.04,
                    machine={},
                ),
            )
    start()
    table = (tmp_path / 'held_out_pytorch.md').read_text()
    assert table in capsys.readouterr().out
    rows = rows_of(table)
    assert rows[0] == ['Steps', 'NAdamW']
    assert rows[1] == [workload, '50 (1.00)']


def test_without_records(start):
    with pytest.raises(
        ValueError, match='no records of a held-out workload; there are'
    ):
        start()
