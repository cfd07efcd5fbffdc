import types

import pytest

from experiments import trials
from experiments.set_targets import targets_from
from experiments.time_to_target import held_out_targets
from experiments.time_to_target.methods import METHODS, RESULTS
from experiments.trials import Record, Trial
from workloads_overrides import registry

WORKLOAD = 'imagenet_vit_fashion_mnist_glu'
POINTS = METHODS['nadamw'].points
# Final validation metrics of the five points with the first seed, and of the best with
# the others.
FINAL = [0.4, 0.5, 0.7004, 0.6, 0.3]
OF_OTHER_SEEDS = [0.69, 0.72]


def record(point, seed):
    number = POINTS.index(point)
    final = FINAL[number] if seed == 0 else OF_OTHER_SEEDS[seed - 1]
    return Record(
        trial=Trial('nadamw', WORKLOAD, 'pytorch', point, seed),
        steps=[25, 50],
        seconds=[1.0, 2.0],
        validation=[0.1, final],
        test=[0.1, final - 0.05],
        seconds_per_step=0.04,
        machine={},
    )


@pytest.fixture
def start(tmp_path, monkeypatch):
    def run(**flags):
        values = {
            'workload': WORKLOAD,
            'framework': 'pytorch',
            'seeds': ['0', '1', '2'],
            'eval_every_steps': 25,
            'processes': 1,
            'output_dir': str(tmp_path),
            'folder': str(tmp_path / 'runs'),
            **flags,
        }
        given = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))
        monkeypatch.setattr(held_out_targets, 'flags', given)
        held_out_targets.main()

    return run


def test_trains_what_is_missing_and_prints_the_targets(
    start, tmp_path, monkeypatch, capsys
):
    trained = []

    def train(missing, path, folder, **_):
        found = [record(t.hyperparameters, t.seed) for t in missing]
        trained.extend((POINTS.index(t.hyperparameters), t.seed) for t in missing)
        for each in found:
            trials.append_record(path, each)
        return found

    monkeypatch.setattr(trials, 'train', train)
    start()
    assert trained == [*((n, 0) for n in range(5)), (2, 1), (2, 2)]
    # The median of 0.7004, 0.69 and 0.72, rounded down, and the worse test metric of
    # the two runs above it.
    targets = 'validation target 0.7, test target 0.65'
    assert f'{WORKLOAD}: {targets}' in capsys.readouterr().out
    trained.clear()
    start()
    assert trained == []
    assert targets in capsys.readouterr().out


@pytest.mark.parametrize(
    ('workload', 'message'),
    [
        ('ogbg_chembl', 'ogbg_chembl is not held out.*experiments.set_targets'),
        ('ogbg_chembl_full', 'is not held out'),
        ('x', "Unknown workload 'x'"),
    ],
)
def test_mistakes_are_named(start, tmp_path, workload, message):
    with pytest.raises(ValueError, match=message):
        start(workload=workload)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'workload', [name for name in registry.WORKLOADS if registry.is_held_out(name)]
)
def test_workload_declares_the_targets_that_were_measured(workload):
    records = trials.load_records(RESULTS / f'{workload}_pytorch' / 'records.jsonl')
    by_key = {found.trial.key: found for found in records}

    def recorded(points, seeds):
        return [
            by_key[Trial('nadamw', workload, 'pytorch', point, seed).key]
            for point in points
            for seed in seeds
        ]

    runs = held_out_targets.runs_of_best_point(
        recorded(POINTS, [0]), range(3), recorded
    )
    declared = registry.load_workload(workload, 'pytorch')
    assert targets_from(runs) == (
        declared.validation_target_value,
        declared.test_target_value,
    )
