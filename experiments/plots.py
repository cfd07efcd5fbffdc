"""Plots of training runs."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.step_seconds import StepSeconds
from experiments.trials import Record

# By method. Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {
    'nadamw': '#000000',
    'kfac_expand': '#D55E00',
    'kfac_reduce': '#0072B2',
    'soap': '#009E73',
    'shampoo': '#CC79A7',
    'muon': '#E69F00',
    'schedule_free_adamw': '#56B4E9',
    'nesterov': '#999999',
    'kfac_expand_every_step': '#D55E00',
    'kfac_reduce_every_step': '#0072B2',
}


def plot_curves(
    records: Mapping[str, Sequence[Record]],
    target: float,
    title: str,
    path: pathlib.Path,
    labels: Mapping[str, str],
    costs: Mapping[str, StepSeconds] | None = None,
) -> None:
    """Draws the validation metric against steps and against seconds.

    Args:
      records: Method name to its runs, one for each seed; the line is the median
        over them, the band their range.
      target: The target, drawn as a horizontal line.
      title: Title of the figure.
      path: PNG file to write.
      labels: Method name to its name in the legend.
      costs: Method name to seconds of steps, where they were measured apart;
        otherwise the seconds are those of the runs.
    """
    mpl.use('Agg')
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for method, runs in records.items():
        label, colour = labels.get(method, method), COLOURS.get(method)
        by_steps = [(run.steps, run.validation) for run in runs]
        cost = (costs or {}).get(method)
        by_seconds = [
            (
                run.seconds
                if cost is None
                else [cost.until(step) for step in run.steps],
                run.validation,
            )
            for run in runs
        ]
        _draw(axes[0], by_steps, target, label, colour)
        _draw(axes[1], by_seconds, target, label, colour)
    for axis, label in zip(axes, ('steps', 'seconds of training'), strict=True):
        axis.axhline(target, color='grey', linestyle='--', linewidth=1, label='target')
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('validation metric')
    axes[0].legend(loc='lower right', fontsize='small')
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw(
    axis: Axes,
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    target: float,
    label: str,
    colour: str | None,
) -> None:
    # Runs of a method may stop at different times: draw what all of them cover.
    shortest = min(len(x) for x, _ in curves)
    x = np.median([x[:shortest] for x, _ in curves], axis=0)
    y = np.array([y[:shortest] for _, y in curves])
    axis.plot(x, np.median(y, axis=0), color=colour, label=label)
    if len(curves) > 1:
        axis.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.2)
    reached = np.flatnonzero(np.median(y, axis=0) > target)
    if len(reached):
        axis.plot(x[reached[0]], np.median(y, axis=0)[reached[0]], 'o', color=colour)


def plot_profile(
    multiples: Mapping[str, Mapping[str, Sequence[float]]],
    title: str,
    path: pathlib.Path,
    labels: Mapping[str, str],
    largest: float = 8.0,
) -> None:
    """Draws performance profiles, one panel for each quantity.

    Args:
      multiples: Quantity to method name to multiples of the fastest method's time,
        sorted.
      title: Title of the figure.
      path: PNG file to write.
      labels: Method name to its name in the legend.
      largest: Multiple up to which to draw.
    """
    mpl.use('Agg')
    figure, axes = plt.subplots(1, len(multiples), figsize=(10, 4), sharey=True)
    for axis, (quantity, methods) in zip(axes, multiples.items(), strict=True):
        for method, values in methods.items():
            finite = [value for value in values if value <= largest]
            x = [1.0, *finite, largest]
            shares = [i / len(values) for i in range(len(finite) + 1)] if values else []
            if not shares:
                continue
            axis.step(
                x,
                [*shares, shares[-1]],
                where='post',
                color=COLOURS.get(method),
                label=labels.get(method, method),
            )
        axis.set_xscale('log')
        axis.set_xlabel(f'{quantity} / fastest method')
        axis.set_ylim(0, 1.05)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('share of seeds that reached the target')
    axes[0].legend(loc='lower right', fontsize='small')
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
