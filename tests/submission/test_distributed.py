"""Several processes on parts of a batch do what one does on the whole."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from submission.pytorch import communication

from . import distributed_run
from .distributed_run import RUNS

WORLD_SIZES = [2, 4]
ROOT = pathlib.Path(__file__).parents[2]
AMBIGUOUS = 'rows ambiguous for one'

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='this build of torch has no gloo',
)


def _results(folder, world_size):
    return [
        torch.load(folder / f'rank_{rank}', weights_only=True)
        for rank in range(world_size)
    ]


def _start(folder, world_size, *args):
    codes, errors = distributed_run.start(
        distributed_run.save_results, folder, world_size, *args
    )
    assert codes == [0] * world_size, '\n'.join(errors)
    return _results(folder, world_size)


@pytest.fixture(scope='module')
def of_ranks(tmp_path_factory):
    """Number of processes to the results of each."""
    return {
        world_size: _start(tmp_path_factory.mktemp('distributed'), world_size)
        for world_size in WORLD_SIZES
    }


@pytest.fixture(scope='module')
def of_one():
    """The results of a single process."""
    return {name: distributed_run.result(run) for name, run in RUNS.items()}


def _tensors(result):
    for name, value in result['parameters'].items():
        yield name, value
    for name, sides in result['layers'].items():
        for side, state in sides.items():
            for key, value in state.items():
                if value is not None:
                    yield f'{name}, {side}, {key}', torch.as_tensor(value)


def _assert_close(found, expected, dtype):
    found, expected = dict(_tensors(found)), dict(_tensors(expected))
    assert found.keys() == expected.keys()
    is_double = dtype == torch.float64
    tolerance = {'rtol': 1e-9, 'atol': 1e-11} if is_double else {}
    for name in found:
        torch.testing.assert_close(
            found[name],
            expected[name],
            msg=lambda text, name=name: f'{name}: {text}',
            **tolerance,
        )


@pytest.mark.parametrize('world_size', WORLD_SIZES)
@pytest.mark.parametrize('run', RUNS)
def test_processes_agree_bit_for_bit(of_ranks, run, world_size):
    first, *others = (results[run] for results in of_ranks[world_size])
    expected = dict(_tensors(first))
    for other in others:
        found = dict(_tensors(other))
        assert found.keys() == expected.keys()
        for name in found:
            assert torch.equal(found[name], expected[name]), name
        assert other['counters'] == first['counters']


@pytest.mark.parametrize('world_size', WORLD_SIZES)
@pytest.mark.parametrize('run', [run for run in RUNS if run != AMBIGUOUS])
def test_they_equal_one_process_on_the_whole_batch(of_ranks, of_one, run, world_size):
    found = of_ranks[world_size][0][run]
    _assert_close(found, of_one[run], RUNS[run].dtype)
    assert found['counters'] == of_one[run]['counters']


@pytest.mark.parametrize('world_size', WORLD_SIZES)
def test_rows_ambiguous_for_one_process_are_left_out_by_all(of_ranks, world_size):
    """Edges and nodes have the statistics of the first two steps, the head more."""
    layers = of_ranks[world_size][0][AMBIGUOUS]['layers']
    weights = {name: layers[name]['a']['averaged_weight'] for name in layers}
    assert weights == pytest.approx(
        {'edge': 1 - 0.9**2, 'node': 1 - 0.9**2, 'head': 1 - 0.9**4}
    )


@pytest.mark.slow
@pytest.mark.parametrize('run', distributed_run.COMPILED)
def test_compiled_models(run, of_one, tmp_path):
    results = _start(tmp_path, 2, [run])
    for result in results:
        _assert_close(result[run], of_one['reduce, grafted'], torch.float64)


def _failing_inverse(folder, rank, world_size):
    """A factor that only its owner finds out cannot be inverted."""
    run = RUNS['expand']
    workload = run.make_workload(dtype=run.dtype)
    model, _ = workload.init_model_fn((0, 1))
    state, _ = distributed_run.init(workload, run.point, model)
    preconditioner = state['preconditioner']
    batch = workload.batch(0)
    histories = []
    for spoil in (False, True):
        with preconditioner.capture(batch) as capture:
            outputs = model(batch['inputs'])
            capture.watch_backward()
            outputs.square().sum().backward()
        preconditioner.update_factors(capture, 16.0, 1.0)
        if spoil:
            average = preconditioner._factors['second'][1].moving_average
            average.diagonal(dim1=1, dim2=2).sub_(1e6)
            # The trace stays positive, as that of sums of outer products always is.
            average[0, 0, 0] += 9e6
        preconditioner.update_inverses()
        histories.append(
            {
                name: {
                    side: factor.inverse.clone()
                    for side, factor in zip('ab', pair, strict=True)
                }
                for name, pair in preconditioner._factors.items()
            }
        )
    torch.save((histories, preconditioner.counters), folder / f'rank_{rank}')


def test_a_failed_inverse_is_known_to_all(tmp_path):
    codes, errors = distributed_run.start(_failing_inverse, tmp_path, 2)
    assert codes == [0, 0], '\n'.join(errors)
    results = _results(tmp_path, 2)
    for (before, after), counters in results:
        assert counters['failed_inverses'] == 1
        for name in after:
            for side in 'ab':
                expected = results[0][0][1][name][side]
                assert torch.equal(after[name][side], expected)
                is_kept = torch.equal(after[name][side], before[name][side])
                assert is_kept == ((name, side) == ('second', 'b'))


def _one_dies(folder, rank, world_size, what):
    """The last process ends without a word where `what` is to be exchanged."""
    if rank == world_size - 1:

        def leave(*args):
            os._exit(13)

        if what == 'gradients':
            torch.Tensor.backward = leave
        else:
            exchanging = communication.exchanging
            communication.exchanging = lambda w: leave() if w == what else exchanging(w)
    distributed_run.save_results(folder, rank, world_size, ['expand'])


@pytest.mark.parametrize(
    'what',
    [
        'number of loss terms',
        'gradients',
        'factor statistics',
        'inverses of the factors',
        'preconditioned gradients',
    ],
)
def test_a_process_that_dies_ends_the_others_with_an_error(what, tmp_path):
    codes, errors = distributed_run.start(_one_dies, tmp_path, 2, what)
    assert codes == [1, 13]
    assert 'CommunicationError: Process 0 of 2 could not exchange ' + what in errors[0]


def _torchrun(folder, *arguments):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc-per-node=2', '-m', distributed_run.__name__, str(folder)]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=distributed_run.TIMEOUT,
    )


def test_torchrun(tmp_path, of_one):
    done = _torchrun(tmp_path)
    assert done.returncode == 0, done.stderr
    for found in _results(tmp_path, 2):
        _assert_close(
            found['reduce, grafted'], of_one['reduce, grafted'], torch.float64
        )


@pytest.mark.slow
def test_torchrun_ends_if_a_process_is_killed(tmp_path):
    done = _torchrun(tmp_path, 'killed')
    assert done.returncode != 0
    assert 'SIGKILL' in done.stderr
    assert not list(tmp_path.glob('rank_*'))
