"""Plots the curves of training runs."""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.step_seconds import StepSeconds
from experiments.trials import Record

# By method. Okabe and Ito's palette, which colour-blind readers can tell apart, and for
# the submission a wine red of Tol's, as their yellow is faint on white.
COLOURS = {
    'nadamw': '#000000',
    'kfac_expand': '#D55E00',
    'kfac_reduce': '#0072B2',
    'soap': '#009E73',
    'shampoo': '#CC79A7',
    'muon': '#E69F00',
    'schedule_free_adamw': '#56B4E9',
    'nesterov': '#999999',
    'kfac_submission': '#882255',
    'kfac_expand_every_step': '#D55E00',
    'kfac_reduce_every_step': '#0072B2',
    'kfac_expand_one_position_in_4': '#D55E00',
}


# The seconds of a run's evaluations, None where they are not to be shown.
Clock = Callable[[Record], Sequence[float] | None]


def plot_curves(
    records: Mapping[str, Sequence[Record]],
    target: float,
    title: str,
    path: pathlib.Path,
    labels: Mapping[str, str],
    costs: Mapping[str, StepSeconds] | None = None,
) -> None:
    """Draws the validation metric against steps and against seconds.

    The line of a method is the median over its runs and the band their range, as far as
    half of the runs went; a run that ended before counts with its last value, since it
    ends where it has reached the target. Above that, a dot is the median of what the
    runs of a method took to reach the target, and the bar their range, with an arrow if
    one never did.

    Args:
      records: Method name to its runs, one for each seed.
      target: The target, drawn as a horizontal line.
      title: Title of the figure.
      path: PNG file to write.
      labels: Method name to its name in the legend.
      costs: Method name to seconds of steps, where they were measured apart; methods
        that are not in it are not drawn against seconds. None takes the seconds of the
        runs.
    """
    mpl.use('Agg')

    def seconds(run: Record) -> Sequence[float] | None:
        if costs is None:
            return run.seconds
        cost = costs.get(run.trial.method)
        return None if cost is None else [cost.until(step) for step in run.steps]

    clocks: dict[str, Clock] = {'steps': lambda run: run.steps}
    if any(seconds(run) is not None for runs in records.values() for run in runs):
        clocks['seconds of training'] = seconds
    figure, axes = plt.subplots(
        2,
        len(clocks),
        figsize=(10, 5.5),
        sharex='col',
        sharey='row',
        squeeze=False,
        layout='constrained',
        height_ratios=(len(records), 24),
    )
    for column, (label, clock) in enumerate(clocks.items()):
        upper, lower = axes[:, column]
        lower.axhline(target, color='grey', linestyle='--', linewidth=1, label='target')
        for number, (method, runs) in enumerate(records.items()):
            x = [times for times in map(clock, runs) if times is not None]
            if x:
                colour = COLOURS.get(method)
                y = [run.validation for run in runs]
                _draw_metric(lower, x, y, labels.get(method, method), colour)
                _draw_times(upper, x, y, target, colour, -number)
        upper.set_title(f'{label} to the target', fontsize='medium')
        upper.set_ylim(0.6 - len(records), 0.6)
        upper.set_yticks([])
        upper.grid(alpha=0.3)
        lower.set_xlabel(label)
        lower.set_xlim(left=0)
        lower.grid(alpha=0.3)
    axes[1, 0].set_ylabel('validation metric')
    handles, names = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc='outside lower center', ncols=5)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_metric(
    axis: Axes,
    x: Sequence[Sequence[float]],
    y: Sequence[Sequence[float]],
    label: str,
    colour: str | None,
) -> None:
    median_end = sorted(times[-1] for times in x)[len(x) // 2]
    grid = sorted({t for times in x for t in times if t <= median_end})
    # Beyond its end `interp` gives a run's last value.
    values = np.array(
        [np.interp(grid, times, of_run) for times, of_run in zip(x, y, strict=True)]
    )
    axis.plot(grid, np.median(values, axis=0), color=colour, label=label)
    if len(x) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axis.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)


def times_to(
    target: float, x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]
) -> list[float]:
    """Returns when runs were first above a target, sorted; infinity is never.

    Args:
      target: The target.
      x: Times of each run's evaluations.
      y: What they gave.
    """
    return sorted(
        next((t for t, v in zip(times, of_run, strict=True) if v > target), math.inf)
        for times, of_run in zip(x, y, strict=True)
    )


def _draw_times(
    axis: Axes,
    x: Sequence[Sequence[float]],
    y: Sequence[Sequence[float]],
    target: float,
    colour: str | None,
    height: int,
) -> None:
    times = times_to(target, x, y)
    if math.isinf(times[0]):
        return
    if len(times) > 1:
        never = math.isinf(times[-1])
        last = max(run[-1] for run in x) if never else times[-1]
        axis.plot([times[0], last], [height] * 2, color=colour, linewidth=2)
        axis.plot(times[0], height, '|', color=colour)
        axis.plot(last, height, '>' if never else '|', color=colour)
    median = times[len(times) // 2]
    if math.isfinite(median):
        axis.plot(median, height, 'o', color=colour)
