import dataclasses
import json

import pytest

from experiments import trials, tune

WORKLOAD = 'imagenet_vit_fashion_mnist'
POINT = {
    'approximation': 'reduce',
    'learning_rate': 1e-3,
    'one_minus_beta1': 0.1,
    'beta2': 0.99,
    'weight_decay': 0.01,
    'warmup_factor': 0.05,
    # Three steps of the workload's thousand.
    'step_hint_factor': 0.003,
}


def tune_once(folder):
    return tune.tune(
        'test',
        WORKLOAD,
        'pytorch',
        [POINT],
        [5],
        eval_every_steps=2,
        processes=1,
        folder=folder,
    )


def test_trials_are_recorded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, 'RESULTS', tmp_path / 'results')
    (record,) = tune_once(tmp_path / 'runs')
    assert record.steps == [2, 3]
    assert record.trial.seed == 5
    assert len(record.seconds) == len(record.validation) == len(record.test) == 2
    assert 0 < record.seconds[0] < record.seconds[1]
    assert record.machine['num_threads'] == 1
    path = tune.records_path(WORKLOAD, 'pytorch', 'test')
    assert path == tmp_path / 'results' / f'{WORKLOAD}_pytorch' / 'test.jsonl'
    text = path.read_text()
    assert json.loads(text)['trial']['hyperparameters'] == POINT

    def refuse(*args, **kwargs):
        raise AssertionError('a recorded trial was trained again')

    monkeypatch.setattr(trials, 'run', refuse)
    assert tune_once(tmp_path / 'runs') == [record]
    assert path.read_text() == text


def test_a_run_of_other_hyperparameters_is_not_recorded_as_this_one(tmp_path):
    trial = trials.Trial('test', WORKLOAD, 'pytorch', POINT, 0)
    folder = tmp_path / f'{WORKLOAD}_pytorch' / 'trial_1'
    folder.mkdir(parents=True)
    (folder / 'hparams.json').write_text(json.dumps({**POINT, 'learning_rate': 0.5}))
    (folder / 'checkpoint_3').touch()
    with pytest.raises(ValueError, match=r"other hyper.*'learning_rate': 0\.5.*delete"):
        trials.run(trial, tmp_path, eval_every_steps=2, num_threads=1, resume=True)


def test_first_evaluation_above_a_target():
    trial = trials.Trial('test', WORKLOAD, 'pytorch', POINT, 0)
    record = trials.Record(
        trial, [10, 20, 30], [1.0, 2.0, 3.0], [0.1, 0.5, 0.4], [0.0] * 3, 0.1, {}
    )
    assert record.steps_to(0.4) == 20
    assert record.seconds_to(0.4) == 2.0
    assert record.steps_to(0.5) is None
    assert record.seconds_to(0.5) is None


@pytest.mark.parametrize(
    ('cpuinfo', 'name'),
    [
        (
            'cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nmodel\t: 1\n',
            'AMD EPYC (cpu family 25, model 17)',
        ),
        ('model name : Neoverse-N1\n', 'Neoverse-N1'),
    ],
)
def test_processors_of_one_name_are_told_apart(tmp_path, cpuinfo, name):
    path = tmp_path / 'cpuinfo'
    path.write_text(cpuinfo)
    assert trials._processor_name(path) == name
    assert trials._processor_name(tmp_path / 'absent')


def test_compilation_adds_up_to_each_evaluation():
    compilations = [(1, 2.0), (3, 0.5), (4, 0.25)]
    assert trials.compilation_until([1, 3, 9], compilations) == [2.0, 2.5, 2.75]
    assert trials.compilation_until([1, 3, 9], []) == []


def test_schedule_length_follows_the_step_hint():
    trial = trials.Trial('test', WORKLOAD, 'pytorch', POINT, 0)
    assert trials.schedule_steps(trial) == 3


def test_equal_trials_train_once(tmp_path):
    # One step, and so one evaluation.
    point = {**POINT, 'step_hint_factor': 0.001}
    trial = trials.Trial('test', WORKLOAD, 'pytorch', point, 0)
    described = []
    records = trials.train(
        [trial, dataclasses.replace(trial, hyperparameters=dict(point))],
        tmp_path / 'records.jsonl',
        tmp_path / 'runs',
        eval_every_steps=2,
        processes=2,
        validation_only=True,
        describe=lambda record: described.append(record) or '',
    )
    assert [record.trial for record in records] == [trial]
    assert records[0].test == []
    assert trials.load_records(tmp_path / 'records.jsonl') == described == records


def test_an_error_ends_the_run_before_the_trials_that_wait(tmp_path):
    # Enough that the last still waits when the first error arrives.
    bad = [
        trials.Trial('test', WORKLOAD, 'pytorch', {**POINT, 'damping': -i}, 0)
        for i in range(1, 51)
    ]
    with pytest.raises(ValueError, match="'damping' is -1"):
        trials.train(
            bad,
            tmp_path / 'records.jsonl',
            tmp_path / 'runs',
            eval_every_steps=2,
            processes=1,
        )
    assert not trials.folder_of(bad[-1], tmp_path / 'runs').exists()
