import collections
import dataclasses

from experiments import trials
from experiments.time_to_target import study
from experiments.time_to_target.study import Study, make_studies, run_studies
from tests.experiments.time_to_target.records import make_record

TARGET = 0.5
WORKLOAD = 'imagenet_vit_fashion_mnist'


@dataclasses.dataclass
class FakeMethod:
    points: list
    submission: str = 'kfac'


METHOD = FakeMethod([{'point': i} for i in range(5)])


def pending_points(one):
    return [trial.hyperparameters['point'] for trial in one.pending]


def test_recorded_trials_do_not_train_again():
    records = [make_record(point=1, reaches_at=20), make_record(point=3)]
    first, second = make_studies(
        [('nadamw', METHOD)], 'workload', 'pytorch', [0, 1], records, TARGET
    )
    assert first.best_steps == 20
    assert pending_points(first) == [0, 2, 4]
    assert second.best_steps is None
    # What was fast with the other seed comes first.
    assert pending_points(second) == [1, 0, 2, 3, 4]


def test_the_best_trial_counts():
    one = Study(collections.deque())
    for reaches_at in (None, 30, 10, 20):
        one.note(make_record(reaches_at=reaches_at), TARGET)
    assert one.best_steps == 10


POINT = {
    'approximation': 'reduce',
    'learning_rate': 1e-3,
    'one_minus_beta1': 0.1,
    'beta2': 0.99,
    'weight_decay': 0.01,
    'warmup_factor': 0.05,
    # Six steps of the workload's thousand.
    'step_hint_factor': 0.006,
}


def test_a_trial_ends_where_it_cannot_count_any_more(tmp_path):
    pending = [
        trials.Trial('kfac', WORKLOAD, 'pytorch', {**POINT, 'damping': damping}, 0)
        for damping in (0.1, 0.2)
    ]
    path = tmp_path / 'records.jsonl'
    run_studies(
        [Study(collections.deque(pending), best_steps=4)],
        path,
        tmp_path / 'runs',
        target=TARGET,
        eval_every_steps=2,
        processes=1,
        num_threads=1,
    )
    records = trials.load_records(path)
    assert [record.trial for record in records] == pending
    assert [record.steps for record in records] == [[2, 4], [2, 4]]
    assert records[0].test == []
    (left,) = study.make_studies(
        [('kfac', FakeMethod([trial.hyperparameters for trial in pending]))],
        WORKLOAD,
        'pytorch',
        [0],
        records,
        TARGET,
    )
    assert not left.pending
