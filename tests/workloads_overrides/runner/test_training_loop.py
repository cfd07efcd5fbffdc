import csv
import dataclasses
import inspect
import json

import pytest
import torch

from tests.workloads_overrides.runner import fake_submission
from tests.workloads_overrides.runner.fakes import FakeWorkload
from workloads_overrides import random_utils
from workloads_overrides.runner.config import TrialConfig
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.search_space import as_hyperparameters
from workloads_overrides.runner.submission_functions import functions_of
from workloads_overrides.runner.training_loop import run_trial

POINT = as_hyperparameters({'learning_rate': 0.1})
SUBMISSION = functions_of(fake_submission)


class Timed:
    """The fake submission, taking time by a paper clock."""

    def __init__(self, clock, select=1.0, update=2.0, prepare=4.0):
        self.clock = clock
        self.select, self.update, self.prepare = select, update, prepare
        self.seen = []

    def functions(self, **changes):
        def data_selection(*arguments):
            self.clock.time += self.select
            return fake_submission.data_selection(*arguments)

        def update_params(train_state, **arguments):
            self.clock.time += self.update
            self.seen.append({**arguments, 'train_state': dict(train_state)})
            return fake_submission.update_params(**arguments)

        def prepare_for_eval(**arguments):
            self.clock.time += self.prepare
            return fake_submission.prepare_for_eval(**arguments)

        return dataclasses.replace(
            SUBMISSION,
            data_selection=data_selection,
            update_params=update_params,
            prepare_for_eval=prepare_for_eval,
            **changes,
        )


@pytest.fixture
def workload(paper_clock):
    made = FakeWorkload()
    made.clock = paper_clock
    # Three splits of 10 seconds each.
    made.eval_seconds = 10.0
    return made


def train(workload, folder, submission=SUBMISSION, hyperparameters=POINT, **settings):
    return run_trial(
        workload,
        'fake',
        submission,
        hyperparameters,
        TrialConfig(**settings),
        folder,
        rng_seed=3,
    )


def rows_of(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def test_only_selection_update_and_preparation_count(tmp_path, workload, paper_clock):
    timed = Timed(paper_clock)
    result = train(
        workload,
        tmp_path,
        timed.functions(),
        max_global_steps=4,
        eval_every_steps=2,
    )
    # Four steps of 3 seconds and two preparations of 4.
    assert result.submission_seconds == 4 * 3 + 2 * 4
    assert result.seconds_per_step == 5.0
    first, last = rows_of(tmp_path / 'eval_measurements.csv')
    assert float(first['accumulated_submission_time']) == 2 * 3 + 4
    assert float(first['score']) == 2 * 3 + 4
    assert float(first['accumulated_eval_time']) == 30
    assert float(first['total_duration']) == 2 * 3 + 4 + 30
    assert float(last['accumulated_eval_time']) == 60


def test_logging_and_checkpoints_do_not_count(
    tmp_path, workload, paper_clock, monkeypatch
):
    save = torch.save

    def slow_save(*arguments):
        paper_clock.time += 500.0
        save(*arguments)

    monkeypatch.setattr(torch, 'save', slow_save)
    result = train(
        workload,
        tmp_path,
        Timed(paper_clock).functions(),
        max_global_steps=4,
        eval_every_steps=2,
    )
    assert result.submission_seconds == 4 * 3 + 2 * 4
    assert result.final_metrics['accumulated_logging_time'] == 500


def test_evaluations_by_seconds_since_the_last(tmp_path, workload, paper_clock):
    workload.eval_period_time_sec = 12
    timed = Timed(paper_clock, prepare=0.0)
    train(workload, tmp_path, timed.functions(), max_global_steps=10)
    # The first step, then every 12 seconds of 3-second steps, then the end.
    assert workload.steps_evaluated == [1, 5, 9, 10]


def test_evaluations_by_steps(tmp_path, workload):
    train(workload, tmp_path, max_global_steps=7, eval_every_steps=3)
    assert workload.steps_evaluated == [3, 6, 7]
    names = {path.name for path in tmp_path.glob('checkpoint_*')}
    assert names == {'checkpoint_3', 'checkpoint_6', 'checkpoint_7'}


def test_checkpoints_by_steps(tmp_path, workload):
    train(
        workload,
        tmp_path,
        max_global_steps=7,
        eval_every_steps=3,
        checkpoint_every_steps=5,
    )
    names = {path.name for path in tmp_path.glob('checkpoint_*')}
    assert names == {'checkpoint_5', 'checkpoint_7'}


def test_only_the_last_checkpoint_or_none(tmp_path, workload):
    settings = {'max_global_steps': 4, 'eval_every_steps': 2}
    train(workload, tmp_path / 'a', save_intermediate_checkpoints=False, **settings)
    assert [p.name for p in (tmp_path / 'a').glob('check*')] == ['checkpoint_4']
    train(workload, tmp_path / 'b', save_checkpoints=False, **settings)
    assert list((tmp_path / 'b').glob('check*')) == []


def test_stops_when_both_targets_are_reached(tmp_path, workload, paper_clock):
    workload.validation_target_value = 0.6
    workload.test_target_value = 0.8
    workload.accuracies = [0.5, 0.7, 0.6, 0.9, 0.95]
    result = train(
        workload,
        tmp_path,
        Timed(paper_clock).functions(),
        max_global_steps=50,
        eval_every_steps=2,
    )
    assert (result.stop_reason, result.global_step) == ('targets', 8)
    assert result.steps_to_validation_target == 4
    assert result.seconds_to_validation_target == 4 * 3 + 2 * 4
    assert result.steps_to_test_target == 8
    assert result.seconds_to_test_target == 8 * 3 + 4 * 4
    assert json.loads((tmp_path / 'result.json').read_text()) == (
        dataclasses.asdict(result)
    )


def test_targets_can_be_passed(tmp_path, workload):
    workload.validation_target_value = workload.test_target_value = 0.6
    workload.accuracies = [0.9, 0.1]
    result = train(
        workload,
        tmp_path,
        max_global_steps=6,
        eval_every_steps=2,
        stop_at_targets=False,
    )
    assert (result.stop_reason, result.global_step) == ('step_limit', 6)
    assert result.steps_to_validation_target == 2
    assert result.final_metrics['validation/accuracy'] == 0.1


def test_the_validation_split_alone(tmp_path, workload):
    workload.validation_target_value, workload.test_target_value = 0.6, 1.0
    workload.accuracies = [0.1, 0.9]
    limits = {'max_global_steps': 20, 'eval_every_steps': 2}
    result = train(workload, tmp_path, validation_only=True, **limits)
    assert workload.evaluated_splits == ('validation',)
    assert (result.stop_reason, result.global_step) == ('targets', 4)
    assert result.steps_to_test_target is None
    assert result.is_final_under(TrialConfig(validation_only=True))
    assert not result.is_final_under(TrialConfig())


def test_a_target_met_exactly_is_not_reached(tmp_path, workload):
    workload.validation_target_value = workload.test_target_value = 0.5
    result = train(workload, tmp_path, max_global_steps=4, eval_every_steps=2)
    assert result.steps_to_validation_target is None
    assert result.stop_reason == 'step_limit'


@pytest.mark.parametrize(('ruleset', 'steps'), [('external', 10), ('self', 15)])
def test_time_budget_by_ruleset(tmp_path, workload, paper_clock, ruleset, steps):
    workload.max_allowed_runtime_sec = 30
    result = train(
        workload,
        tmp_path,
        Timed(paper_clock, prepare=0.0).functions(),
        hyperparameters=POINT if ruleset == 'external' else None,
        tuning_ruleset=ruleset,
        eval_every_steps=4,
    )
    assert (result.stop_reason, result.global_step) == ('time_budget', steps)
    assert workload.steps_evaluated == list(range(4, steps, 4))


def test_a_run_goes_on_beyond_the_time_budget_where_it_is_told_to(
    tmp_path, workload, paper_clock
):
    workload.max_allowed_runtime_sec = 30

    def go_on(**limits):
        submission = Timed(paper_clock, prepare=0.0).functions()
        return train(workload, tmp_path, submission, eval_every_steps=4, **limits)

    assert go_on().stop_reason == 'time_budget'
    assert go_on().global_step == 10
    result = go_on(limit_time=False, max_global_steps=14)
    assert (result.stop_reason, result.global_step) == ('step_limit', 14)
    assert workload.steps_evaluated == [4, 8, 12, 14]


def test_a_run_without_a_time_budget_has_another_end():
    with pytest.raises(RunnerError, match='nolimit_time needs --max_global_steps'):
        TrialConfig(limit_time=False)


def test_preparation_can_use_up_the_budget(tmp_path, workload, paper_clock):
    workload.max_allowed_runtime_sec = 8
    result = train(
        workload, tmp_path, Timed(paper_clock).functions(), eval_every_steps=2
    )
    assert (result.stop_reason, result.submission_seconds) == ('time_budget', 10)
    assert workload.steps_evaluated == []


class TrainingCompleteError(Exception):
    """Of the same name as AlgoPerf's, but another class."""


def test_submission_can_end_training(tmp_path, workload):
    def update_params(global_step, **arguments):
        if global_step == 4:
            raise TrainingCompleteError
        return fake_submission.update_params(global_step=global_step, **arguments)

    submission = dataclasses.replace(SUBMISSION, update_params=update_params)
    result = train(workload, tmp_path, submission, eval_every_steps=100)
    assert (result.stop_reason, result.global_step) == ('submission', 5)
    assert workload.steps_evaluated == [5]
    content = torch.load(tmp_path / 'checkpoint_5', weights_only=True)
    assert content['train_state']['training_complete'] is True


@pytest.mark.parametrize('function', ['update_params', 'prepare_for_eval'])
def test_other_errors_of_a_submission_end_the_run(tmp_path, workload, function):
    def fail(**arguments):
        raise RuntimeError('out of memory')

    submission = dataclasses.replace(SUBMISSION, **{function: fail})
    with pytest.raises(RuntimeError, match='out of memory'):
        train(workload, tmp_path, submission, eval_every_steps=1)


def test_errors_of_an_evaluation_end_the_run(tmp_path, workload, monkeypatch):
    def fail(*arguments):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(workload, 'eval_model', fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        train(workload, tmp_path, max_global_steps=3)


def test_evaluations_can_be_skipped(tmp_path, workload, paper_clock):
    workload.max_allowed_runtime_sec = 30
    result = train(workload, tmp_path, Timed(paper_clock).functions(), skip_evals=True)
    assert workload.steps_evaluated == []
    assert not (tmp_path / 'eval_measurements.csv').exists()
    assert (result.stop_reason, result.global_step) == ('time_budget', 10)
    assert result.final_metrics == {}


def test_random_keys_are_algoperfs(tmp_path, workload, paper_clock, monkeypatch):
    keys = {}
    build = workload._build_input_queue

    def build_queue(key, *arguments, **options):
        keys['data'] = list(key)
        return build(key, *arguments, **options)

    monkeypatch.setattr(workload, '_build_input_queue', build_queue)
    timed = Timed(paper_clock)
    split, fold_in = random_utils.split, random_utils.fold_in
    for ruleset in ('external', 'self'):
        point = POINT if ruleset == 'external' else None
        train(
            workload,
            tmp_path / ruleset,
            timed.functions(),
            point,
            tuning_ruleset=ruleset,
            max_global_steps=2,
        )
        key = random_utils.prng_key(3)
        if ruleset == 'external':
            key, _ = split(key, 2)
        data_key, _, _, key = split(key, 4)
        assert keys['data'] == list(data_key)
        for step, seen in enumerate(timed.seen):
            assert list(seen['rng']) == list(split(fold_in(key, step), 4)[1])
        timed.seen.clear()


def test_what_a_submission_gets(tmp_path, workload, paper_clock):
    timed = Timed(paper_clock)
    train(workload, tmp_path, timed.functions(), max_global_steps=3, eval_every_steps=2)
    last = timed.seen[-1]
    assert last['global_step'] == 2
    assert last['hyperparameters'] == POINT
    assert [step for step, _ in last['eval_results']][:1] == [2]
    assert last['train_state']['accumulated_submission_time'] == 2 * 3 + 4
    assert sorted(last['train_state']) == sorted(
        [
            'validation_goal_reached',
            'test_goal_reached',
            'is_time_remaining',
            'last_eval_time',
            'training_complete',
            'accumulated_submission_time',
            'accumulated_eval_time',
            'accumulated_logging_time',
            'last_step_end_time',
        ]
    )


def test_train_state_is_passed_only_where_asked_for(tmp_path, workload):
    seen = []

    def update_params(
        workload,
        current_param_container,
        current_params_types,
        model_state,
        hyperparameters,
        batch,
        loss_type,
        optimizer_state,
        eval_results,
        global_step,
        rng,
    ):
        seen.append(global_step)
        return optimizer_state, current_param_container, model_state

    assert 'train_state' not in inspect.signature(update_params).parameters
    submission = dataclasses.replace(
        SUBMISSION, update_params=update_params, prepare_for_eval=None
    )
    train(workload, tmp_path, submission, max_global_steps=2)
    assert seen == [0, 1]


def test_files_and_columns(tmp_path, workload):
    train(workload, tmp_path, max_global_steps=4, eval_every_steps=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        'hparams.json',
        'meta_data_0.json',
        'flags_0.json',
        'measurements.csv',
        'eval_measurements.csv',
        'result.json',
        'checkpoint_2',
        'checkpoint_4',
    }
    columns = {
        'train/accuracy',
        'validation/accuracy',
        'validation/num_examples',
        'test/accuracy',
        'test/num_examples',
        'score',
        'total_duration',
        'accumulated_submission_time',
        'accumulated_eval_time',
        'accumulated_logging_time',
        'global_step',
        'preemption_count',
    }
    evals = rows_of(tmp_path / 'eval_measurements.csv')
    assert set(evals[0]) == columns
    assert [row['global_step'] for row in evals] == ['2', '4']
    rows = rows_of(tmp_path / 'measurements.csv')
    assert set(rows[0]) == columns | {'loss'}
    # Losses of steps 0 and 2, two evaluations and the final score.
    assert [row['global_step'] for row in rows] == ['0', '2', '2', '4', '4']
    assert [bool(row['loss']) for row in rows] == [True, False, True, False, False]
    assert json.loads((tmp_path / 'hparams.json').read_text()) == POINT._asdict()
    facts = json.loads((tmp_path / 'meta_data_0.json').read_text())
    assert facts['rng_seed'] == 3
    assert facts['workload.validation_target_value'] == 2.0
    assert facts['torch_version'] == torch.__version__
    assert 'workload.param_shapes' not in facts
    flags = json.loads((tmp_path / 'flags_0.json').read_text())
    assert flags['eval_every_steps'] == 2


def test_a_submission_can_set_the_evaluation_batch_size(tmp_path, workload):
    submission = dataclasses.replace(SUBMISSION, get_eval_batch_size=lambda name: 2)
    train(workload, tmp_path, submission, max_global_steps=1)
    assert set(workload.eval_batch_sizes) == {2}


def test_trials_do_not_depend_on_what_ran_before(tmp_path, workload):
    settings = {'max_global_steps': 3, 'eval_every_steps': 3}
    parameters = []
    for name in ('a', 'b'):
        train(workload, tmp_path / name, **settings)
        torch.rand(5)
        content = torch.load(tmp_path / name / 'checkpoint_3', weights_only=True)
        parameters.append(content['model_params']['0.weight'])
    assert torch.equal(*parameters)
