import dataclasses
import json
import math

import pytest

from experiments import compare, set_targets, trials, tune
from experiments.steps_to_target import median_steps
from submission.settings import Settings
from workloads_overrides import registry


def make_record(point, seed, validation, test):
    steps = [50 * (i + 1) for i in range(len(validation))]
    return trials.Record(
        trial=trials.Trial('nadamw', 'ogbg_chembl', 'pytorch', point, seed),
        steps=steps,
        seconds=[0.1 * step for step in steps],
        validation=validation,
        test=test,
        seconds_per_step=0.1,
        machine={},
    )


SLOW = {'learning_rate': 1e-3}
FAST = {'learning_rate': 2e-3}
POOR = {'learning_rate': 3e-3}
CURVES = {
    # Best at the end, so it sets the target.
    1e-3: {
        0: ([0.1, 0.3, 0.5, 0.7004], [0.1, 0.3, 0.5, 0.65]),
        1: ([0.1, 0.3, 0.5, 0.69], [0.1, 0.3, 0.5, 0.6]),
        2: ([0.1, 0.3, 0.71, 0.72], [0.1, 0.3, 0.5, 0.64]),
    },
    # Reaches the target sooner, though only two of its three runs do.
    2e-3: {
        0: ([0.1, 0.7004, 0.7003], [0.1, 0.6, 0.6]),
        1: ([0.1, 0.7004, 0.7003], [0.1, 0.6, 0.6]),
        2: ([0.1, 0.4, 0.5], [0.1, 0.6, 0.6]),
    },
    3e-3: {seed: ([0.1, 0.2], [0.1, 0.2]) for seed in range(3)},
}


def train(points, seeds):
    return [
        make_record(point, seed, *CURVES[point['learning_rate']][seed])
        for point in points
        for seed in seeds
    ]


def test_targets_and_reference():
    reference = set_targets.set_targets([POOR, SLOW, FAST], range(3), 2, train)
    # The median of the final values 0.7004, 0.69 and 0.72, rounded down.
    assert reference['validation_target'] == 0.7
    # The worst test metric among the two runs that reached it.
    assert reference['test_target'] == 0.64
    assert reference['target_set_by'] == SLOW
    assert reference['hyperparameters'] == FAST
    assert reference['reference_steps_to_target'] == [100, 100, None]
    assert reference['points_tried'] == 3


def test_run_that_misses_the_target_counts_as_for_ever():
    runs = train([FAST], range(3))
    assert median_steps(runs, 0.7) == 100
    assert median_steps(runs[1:], 0.7) == math.inf
    assert median_steps(train([POOR], [0]), 0.7) == math.inf


@pytest.mark.parametrize('workload', ['ogbg_chembl', 'imagenet_vit_fashion_mnist'])
def test_workload_declares_the_targets_that_were_measured(workload):
    reference = json.loads(compare.REFERENCES.read_text())[workload]
    declared = registry.load_workload(workload, 'pytorch')
    assert declared.validation_target_value == reference['validation_target']
    assert declared.test_target_value == reference['test_target']
    records = trials.load_records(tune.records_path(workload, 'pytorch', 'nadamw'))
    points = json.loads(set_targets.SEARCH_SPACE.read_text())
    assert len(points) >= 10
    by_key = {record.trial.key: record for record in records}

    def recorded(some, seeds):
        return [
            by_key[trials.Trial('nadamw', workload, 'pytorch', point, seed).key]
            for point in some
            for seed in seeds
        ]

    seeds = reference['seeds']
    finalists = reference['finalists']
    assert reference == set_targets.set_targets(points, seeds, finalists, recorded)


def test_all_points_of_the_search_space_are_nadamw():
    for point in json.loads(set_targets.SEARCH_SPACE.read_text()):
        assert Settings.from_hyperparameters(point).approximation == 'none'


def test_records_survive_the_file(tmp_path):
    records = train([SLOW, FAST], range(2))
    path = tmp_path / 'nadamw.jsonl'
    lines = [json.dumps(dataclasses.asdict(record)) + '\n' for record in records]
    path.write_text(''.join(lines))
    assert trials.load_records(path) == records
    path.write_text(lines[0] + lines[1][:40])
    with pytest.raises(ValueError, match=r'nadamw\.jsonl, line 2'):
        trials.load_records(path)
