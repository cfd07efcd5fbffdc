r"""Peak memory of training by each method, each in a process of its own.

What is reported is resident memory of the process on the host (`VmHWM` in Linux's
`/proc`): its peak over a few statistics steps (plain ones without K-FAC), which do all
that others do, and that peak less what was resident before the first step, with the
data, the model and the optimiser's state in place. The peak is set back before the
steps, and in JAX once more after compilation. `getrusage` gives the same peak, but a
process inherits it from the one that started it, and cannot set it back.

Memory of a GPU is not in that. In PyTorch the allocator's own count of it is reported
beside it, before the first step, at its peak, and the difference.

In JAX what compilation took stays with the process, more for more functions. So there
the compiler's own count for the programs of a step is reported too: arguments, results
and everything between, which is what a step takes of its device.
"""

import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import psutil
from absl import flags, logging

from experiments import command
from experiments.step_time.runs import Run
from experiments.step_time.variants import points
from workloads_overrides import registry
from workloads_overrides.runner import frameworks

_STATUS = pathlib.Path('/proc/self/status')
_CLEAR_REFS = pathlib.Path('/proc/self/clear_refs')
_STEPS = 4


def peak_bytes() -> int:
    """Returns the peak of this process's resident memory since it was set back."""
    found = re.search(r'^VmHWM:\s*(\d+) kB$', _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def set_peak_back() -> None:
    """Makes what is resident now the peak."""
    _CLEAR_REFS.write_text('5')


def measure_here(
    workload_name: str, framework_name: str, method: str, batch_size: int
) -> dict[str, float]:
    """Trains a few steps in this process.

    Returns:
      MiB resident before the first step, the peak, and the peak's excess over it; in
      JAX also those that the compiled step takes, in PyTorch those of a GPU.
    """
    workload = registry.load_workload(workload_name, framework_name)
    run = Run(workload, framework_name, points()[method], batch_size)
    gpu = _GPUMemory() if framework_name == 'pytorch' else None
    before = psutil.Process().memory_info().rss
    set_peak_back()
    if framework_name == 'jax':
        run.take('statistics')
        set_peak_back()
    for _ in range(_STEPS):
        run.take('statistics')
    peak = peak_bytes()
    values = {'before': before, 'peak': peak, 'added': peak - before}
    if framework_name == 'jax':
        values['compiled'] = compiled_bytes(run)
    if gpu is not None:
        values.update(gpu.bytes_taken())
    return {f'{name}_mib': round(value / 2**20, 1) for name, value in values.items()}


class _GPUMemory:
    """What PyTorch's allocator has given out on a GPU, where there is one."""

    def __init__(self) -> None:
        # PyTorch takes memory of its own, which the other framework should not be
        # charged.
        import torch

        self._cuda = torch.cuda
        self._before = 0
        if self._cuda.is_available():
            self._cuda.reset_peak_memory_stats()
            self._before = self._cuda.memory_allocated()

    def bytes_taken(self) -> dict[str, float]:
        """Returns bytes at the start, at the peak since, and the difference."""
        if not self._cuda.is_available():
            return {}
        peak = self._cuda.max_memory_allocated()
        return {
            'gpu_before': self._before,
            'gpu_peak': peak,
            'gpu_added': peak - self._before,
        }


def lowered_programs(run: Run, kind: str) -> list[Any]:
    """Returns the programs that a kind of step consists of in JAX, not compiled yet.

    Args:
      run: The run.
      kind: `'plain'` or `'statistics'`.
    """
    # JAX takes memory of its own, which the other framework should not be charged.
    import jax

    from submission.jax import sharding
    from submission.jax_submission import Rates

    training = run.training
    (state, steps), params, model_state = training.state
    batch = sharding.shard_batch(next(training.queue))
    average = None if state.average is None else state.average.average
    rule = (state.first_order, params, model_state, average, state.kfac)
    rates = Rates(learning_rate=0.0, newest_share=0.0)
    if kind == 'plain':
        return [steps.plain.lower(*rule, batch, training.key, rates)]
    arguments = (state.kfac, params, model_state, batch, training.key)
    _, passes = jax.eval_shape(steps.statistics, *arguments)
    return [
        steps.statistics.lower(*arguments),
        steps.inverses.lower(state.kfac),
        steps.apply.lower(*rule, passes, rates),
    ]


def compiled_bytes(run: Run) -> int:
    """Returns what a statistics step takes in JAX, a plain one without K-FAC.

    The programs of a step run one after the other; the gradients that the first one
    makes are there until the end.
    """
    import jax

    kind = 'statistics' if 'statistics' in run.kinds else 'plain'
    first, *others = (
        program.compile().memory_analysis() for program in lowered_programs(run, kind)
    )
    kept = first.argument_size_in_bytes
    if others:
        # What the first program does not take is there all the same.
        first_order = jax.tree.leaves(run.training.state[0][0].first_order)
        kept += sum(leaf.nbytes for leaf in first_order)
    peaks = [first.temp_size_in_bytes]
    peaks += [_new_bytes(one) + one.temp_size_in_bytes for one in others]
    return int(kept + _new_bytes(first) + max(peaks))


def _new_bytes(memory: Any) -> int:
    """Returns the size of results that do not take the place of arguments."""
    size: int = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return size


def measure(
    workload_name: str,
    framework_name: str,
    method: str,
    batch_size: int,
    num_threads: int | None,
) -> dict[str, float]:
    """Does so in a process of its own.

    Args:
      workload_name: Name of the workload.
      framework_name: `'pytorch'` or `'jax'`.
      method: A name in `variants.points`.
      batch_size: Examples in a batch.
      num_threads: Threads within an operation; None leaves the framework's choice.

    Returns:
      What `measure_here` returns there.
    """
    command = [
        sys.executable,
        '-m',
        __name__,
        f'--workload={workload_name}',
        f'--framework={framework_name}',
        f'--method={method}',
        f'--batch_size={batch_size}',
    ]
    if num_threads is not None:
        command.append(f'--num_threads={num_threads}')
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(output.stdout.splitlines()[-1])
    return result


def _define_flags() -> None:
    flags.DEFINE_string('workload', None, 'Name of the workload.', required=True)
    flags.DEFINE_enum(
        'framework', None, ['pytorch', 'jax'], 'Framework to train in.', required=True
    )
    flags.DEFINE_string('method', None, 'Name of the method.', required=True)
    flags.DEFINE_integer('batch_size', None, 'Examples in a batch.', required=True)
    flags.DEFINE_integer('num_threads', None, 'Threads within an operation.')


def main() -> None:
    """Prints the result as JSON."""
    # The submission says for each run who trains which parameter.
    logging.set_verbosity(logging.WARNING)
    values: Any = flags.FLAGS
    if values.num_threads is not None:
        frameworks.load(values.framework).set_num_threads(values.num_threads)
    result = measure_here(
        values.workload, values.framework, values.method, values.batch_size
    )
    print(json.dumps(result))


if __name__ == '__main__':
    _define_flags()
    command.run(main)
