"""The parts of a step in PyTorch, by timing the submission's functions as they run.

For the time of a measurement the functions that a step calls are replaced by ones
that keep the time and call them. A function's time is without that of those within
it: hooks that add up factors run within the passes, and count as factors. The rest is
what the step takes outside all of them; the Python of the functions themselves, and
PyTorch's own work around each operation, is in the part that it serves.

On a GPU each part waits for the device, which a step does not; parts then say where
the work is, and not how long a step takes.
"""

import collections
import contextlib
import functools
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch

from experiments.step_time.runs import Run
from submission.pytorch import labels
from submission.pytorch.approximations import ExpandSums, ReduceSums
from submission.pytorch.capture import Capture
from submission.pytorch.convolutions import ConvLayer, ConvTransposeLayer
from submission.pytorch.first_order import FirstOrderOptimizer
from submission.pytorch.layers import LinearLayer
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.pytorch.weight_sharing import BatchStructure

_REST = 'rest'
# Who has a function, its name, and the part that its time belongs to.
_FUNCTIONS: tuple[tuple[Any, str, str], ...] = (
    (torch.Tensor, 'backward', 'forward and backward'),
    (labels, 'sampled_output_gradient', 'extra backward'),
    (Capture, 'backward_to_layers', 'extra backward'),
    *(
        (owner, name, 'factors')
        for owner in (ExpandSums, ReduceSums)
        for name in ('add_inputs', 'add_gradients')
    ),
    *(
        (owner, name, 'factors')
        for owner in (LinearLayer, ConvLayer, ConvTransposeLayer)
        for name in ('input_rows', 'gradient_rows')
    ),
    (BatchStructure, 'to_weight_sharing_format', 'factors'),
    (KFACPreconditioner, 'capture', 'factors'),
    (KFACPreconditioner, 'update_factors', 'factors'),
    (KFACPreconditioner, 'update_inverses', 'inverses'),
    (KFACPreconditioner, 'precondition_all', 'preconditioning'),
    (KFACPreconditioner, 'spectral_directions', 'preconditioning'),
    (FirstOrderOptimizer, 'zero_grad', 'first-order rule'),
    (FirstOrderOptimizer, 'step', 'first-order rule'),
)


class _Stopwatch:
    """Gives the time that passes to the innermost part that is running."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waits = torch.cuda.is_available()
        self._running: list[str] = []
        self._since = 0.0
        self.seconds: dict[str, float] = collections.defaultdict(float)

    def _lap(self) -> None:
        if self._waits:
            torch.cuda.synchronize()
        now = self._run.training.clock()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def keeping_time(*args: Any, **kwargs: Any) -> Any:
            self._lap()
            self._running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._lap()
                self._running.pop()

        return keeping_time

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Replaces the functions."""
        workload = self._run.training.workload
        passes = [
            (workload, n, 'forward and backward') for n in ('model_fn', 'loss_fn')
        ]
        step = (self._run.training.submission, 'update_params', _REST)
        with contextlib.ExitStack() as stack:
            for owner, name, part in (*_FUNCTIONS, *passes, step):
                function = self.timed(part, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, function))
            yield


def measure(
    runs: Mapping[str, Run], rounds: int, with_rest: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Times the parts, the runs in turn.

    Args:
      runs: Runs by name, warmed up.
      rounds: Steps of each kind.
      with_rest: Not used: whole steps are timed in any case.

    Returns:
      Run to kind of step to part to median seconds; `rest` is the time of a step
      outside all parts.
    """
    del with_rest
    laps: dict[str, dict[str, list[dict[str, float]]]] = {
        name: collections.defaultdict(list) for name in runs
    }
    for _ in range(rounds):
        for name, run in runs.items():
            for kind in run.kinds:
                stopwatch = _Stopwatch(run)
                with stopwatch.watching():
                    run.take(kind)
                laps[name][kind].append(dict(stopwatch.seconds))
    return {
        name: {kind: _medians(steps) for kind, steps in kinds.items()}
        for name, kinds in laps.items()
    }


def _medians(steps: list[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(step[part] for step in steps) for part in steps[0]}
