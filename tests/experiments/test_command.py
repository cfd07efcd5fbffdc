import subprocess
import sys
import types

import pytest

from experiments import communication, compare, report, set_targets, tune
from experiments.peers import __main__ as peers
from experiments.step_time import __main__ as step_time

SCRIPT = """
from absl import flags, logging
from experiments import command

def main():
    logging.set_verbosity(logging.WARNING)
    if flags.FLAGS.kind == 'value':
        raise ValueError('--kind is wrong; give another.')
    if flags.FLAGS.kind == 'file':
        open('/nowhere/space.json')
    if flags.FLAGS.kind == 'bug':
        raise KeyError('bug')
    print('done')

flags.DEFINE_string('kind', None, 'What happens.')
command.run(main)
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, '-c', SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('--kind=value', 'Error: --kind is wrong; give another.\n'),
        (
            '--kind=file',
            "Error: [Errno 2] No such file or directory: '/nowhere/space.json'\n",
        ),
        ('kind=value', 'Error: not a flag: kind=value\n'),
    ],
)
def test_mistakes_end_with_one_line(argument, message):
    done = run(argument)
    assert (done.returncode, done.stdout, done.stderr) == (1, '', message)


def test_tracebacks_are_shown_when_asked_for_and_for_what_is_no_mistake():
    for arguments in (['--kind=value', '--verbosity=1'], ['--kind=bug']):
        assert 'Traceback' in run(*arguments).stderr
    assert run().stdout == 'done\n'


UNKNOWN = "Unknown workload 'nosuch'; there are"
FLAGS = {
    'workload': 'nosuch',
    'workloads': ['nosuch'],
    'framework': 'pytorch',
    'method': 'kfac',
    'search_space': 'tuning_search_space.json',
    'num_tuning_trials': 5,
    'seed': 0,
    'seeds': ['0'],
    'finalists': 1,
    'target': None,
    'eval_every_steps': 10,
    'processes': 1,
    'num_threads': None,
    'rounds': 1,
    'steps': 10,
    'world_sizes': ['1'],
    'batch_size': 4,
    'report': False,
}


@pytest.mark.parametrize(
    ('module', 'given', 'message'),
    [
        (report, {}, UNKNOWN),
        (
            report,
            {'workload': 'ogbg_chembl', 'framework': 'jax'},
            r'ogbg_chembl_jax/nadamw\.jsonl does not have the NAdamW reference',
        ),
        (tune, {}, UNKNOWN),
        (tune, {'search_space': 'absent.json'}, 'absent.json: there is no such file'),
        (tune, {'seeds': ['x']}, "--seeds has 'x'"),
        (set_targets, {'seeds': 1}, UNKNOWN),
        (compare, {}, UNKNOWN),
        (peers, {}, UNKNOWN),
        (step_time, {'parts': step_time.PARTS}, UNKNOWN),
        (peers, {'report': True}, 'nosuch_pytorch.json: there are no results'),
        (step_time, {'report': True}, 'nosuch_pytorch.json: there are no results'),
        (communication, {}, UNKNOWN),
        (communication, {'steps': 5}, '--steps has to be a multiple of 10'),
        (
            communication,
            {'workloads': ['ogbg_chembl'], 'world_sizes': ['1', 'x']},
            "--world_sizes has 'x'; give whole numbers",
        ),
        (
            communication,
            {'workloads': ['ogbg_chembl'], 'world_sizes': ['0']},
            "--world_sizes has '0'",
        ),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    tmp_path, monkeypatch, module, given, message
):
    results = tmp_path / 'results'
    values = {**FLAGS, 'output_dir': str(results), 'folder': str(results), **given}
    monkeypatch.setattr(
        module, 'flags', types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))
    )
    with pytest.raises(ValueError, match=message):
        module.main()
    assert list(tmp_path.iterdir()) == []
