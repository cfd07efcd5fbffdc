import csv
import io
import sys

import pytest
from absl import flags, logging

from tests.workloads_overrides.runner import fakes
from workloads_overrides import submission_runner
from workloads_overrides.runner import progress
from workloads_overrides.runner.state import TrainingState


@pytest.fixture
def command(tmp_path):
    """Returns a function that runs the command with flags."""

    def run(*arguments):
        defaults = [
            '--framework=pytorch',
            '--workload=fake',
            f'--submission_path={fakes.SUBMISSION_PATH}',
            f'--experiment_dir={tmp_path}',
            '--experiment_name=experiment',
            '--tuning_ruleset=self',
            '--max_global_steps=4',
        ]
        rest = flags.FLAGS(['submission_runner', *defaults, *arguments])
        submission_runner.main(rest)

    verbosity = logging.get_verbosity()
    yield run
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    logging.set_verbosity(verbosity)


def steps_evaluated(folder):
    with open(folder / 'eval_measurements.csv', newline='') as file:
        return [row['global_step'] for row in csv.DictReader(file)]


def test_flags_reach_the_run(tmp_path, command):
    command('--eval_every_steps=2', '--study=1', '--nosave_checkpoints')
    trial = tmp_path / 'experiment/study_1/fake_pytorch/trial_1'
    assert steps_evaluated(trial) == ['2', '4']
    assert list(trial.glob('checkpoint_*')) == []


def test_the_default_is_algoperfs_rule_for_evaluations(tmp_path, command):
    command()
    trial = tmp_path / 'experiment/fake_pytorch/trial_1'
    assert steps_evaluated(trial) == ['1', '4']


def test_mistakes_end_with_a_message_and_no_traceback(command):
    command()
    with pytest.raises(SystemExit, match=r'Error: .*--resume_last_run.*--overwrite'):
        command()


def test_words_that_are_no_flags_are_refused(command):
    with pytest.raises(Exception, match='Not a flag'):
        command('word')


def test_a_line_for_each_evaluation_without_a_terminal(command, monkeypatch):
    lines = []
    monkeypatch.setattr(
        progress.logging, 'info', lambda text, *values: lines.append(text % values)
    )
    command('--eval_every_steps=2')
    steps = [line for line in lines if line.startswith('Step')]
    assert len(steps) == 2
    assert 'Step 4: validation/accuracy 0.5 (best 0.5)' in steps[1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    state = TrainingState({}, None, None)
    shown = progress.Progress('accuracy', state, max_steps=10, budget=1000.0)
    for value in (0.75, 0.25):
        state.global_step += 4
        state.train_state['accumulated_submission_time'] += 40.0
        metrics = {'validation/accuracy': value}
        state.eval_results.append((state.global_step, metrics))
        shown.evaluation(state, metrics)
        shown.step(state, {'loss': 1.5})
    shown._bar.refresh()
    shown.close()
    last = terminal.getvalue().split('\r')[-1]
    assert '8/10' in last
    assert 'loss 1.5, validation/accuracy 0.25 (0.75), left 00:20' in last


def test_time_left_is_the_nearer_of_steps_and_budget():
    state = TrainingState({}, None, None, global_step=10)
    state.train_state['accumulated_submission_time'] = 20.0
    state.train_state['accumulated_eval_time'] = 10.0
    for max_steps, budget, seconds in (
        # 3 seconds a step with evaluations, 1.5 seconds for each that counts.
        (30, 1000.0, 60.0),
        (30, 40.0, 30.0),
        (None, 60.0, 60.0),
        (5, 60.0, 0.0),
    ):
        shown = progress.Progress('accuracy', state, max_steps, budget)
        assert shown.seconds_left(state) == seconds
        shown.close()
