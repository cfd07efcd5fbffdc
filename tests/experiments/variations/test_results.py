import dataclasses
import math

import pytest

from experiments import trials
from experiments.variations.results import Results, final_metric, ran_to_the_end
from tests.experiments.variations.records import (
    WORKLOAD,
    make_record,
    make_results,
    point,
)

REACHED = {'reaches_at': 20}
STOPPED = {'reaches_at': 20, 'stops': True}


def test_a_point_counts_with_all_its_seeds():
    complete, partial = point(), point(damping=0.2)
    results = make_results(
        [(complete, [REACHED, {'reaches_at': 10}, {}]), (partial, [REACHED] * 2)]
    )
    assert [run.trial.seed for run in results.runs_of(complete)] == [0, 1, 2]
    assert results.median_steps(complete) == 20
    assert results.runs_of(partial) == []
    assert results.median_steps(partial) is None


def test_missing_trials_seed_by_seed_and_each_once():
    done, new = point(), point(damping=0.2)
    results = make_results([(done, [STOPPED, {}])])
    missing = results.missing([done, new, point()], full=False)
    assert [(t.seed, t.hyperparameters['damping']) for t in missing] == [
        (0, 0.2),
        (1, 0.2),
        (2, 0.1),
        (2, 0.2),
    ]


def test_full_trains_on_what_stopped_at_the_target():
    done = point()
    results = make_results([(done, [STOPPED, REACHED, {}])])
    assert results.missing([done], full=False) == []
    assert [trial.seed for trial in results.missing([done], full=True)] == [0]


def test_a_record_that_stopped_below_a_newer_target_is_not_enough():
    done = point()
    results = make_results([(done, [STOPPED, REACHED, {}])])
    harder = dataclasses.replace(results, target=0.9)
    assert [trial.seed for trial in harder.missing([done], full=False)] == [0]


def test_the_longest_record_of_all_studies_counts(tmp_path):
    first, second = tmp_path / 'sensitivity.jsonl', tmp_path / 'tried.jsonl'
    trial = point().trial(WORKLOAD, 'pytorch', 0)
    short, full = make_record(trial, **STOPPED), make_record(trial, **REACHED)
    other = make_record(point(damping=0.2).trial(WORKLOAD, 'pytorch', 0))
    trials.append_record(first, short)
    trials.append_record(second, full)
    trials.append_record(second, short)
    trials.append_record(second, other)
    results = Results.load([first, second], WORKLOAD, 'pytorch', [0])
    assert results.records == {trial.key: full, other.trial.key: other}
    # The workload's own.
    assert (results.target, results.metric) == (0.8, 'accuracy')


def test_other_evaluation_steps_are_refused():
    done = point()
    results = make_results([(done, [REACHED])])
    results.check_interval([done], 10)
    results.check_interval([point(damping=0.2)], 25)
    with pytest.raises(ValueError, match='every 10 steps, not every 25'):
        results.check_interval([done], 25)


def test_a_schedule_shorter_than_the_evaluation_steps():
    short = point(step_hint_factor=0.01)
    record = make_record(short.trial(WORKLOAD, 'pytorch', 0), **STOPPED)
    record = dataclasses.replace(record, steps=[10], validation=[0.6])
    results = make_results([])
    dataclasses.replace(results, records={record.trial.key: record}).check_interval(
        [short], 25
    )
    assert ran_to_the_end(record)


def test_a_diverged_run_is_the_worst():
    runs = make_results([(point(), [{}, {}, {'reaches_at': 10}])]).runs_of(point())
    diverged = dataclasses.replace(runs[0], validation=[math.nan])
    assert final_metric(runs) == 0.4
    assert final_metric([diverged, *runs[1:]]) == 0.4
    assert final_metric([diverged, diverged, runs[2]]) == -math.inf
