"""Plots of training runs."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.trials import Record

LABELS = {
    'nadamw': 'NAdamW (tuned reference)',
    'kfac_expand': 'K-FAC-expand',
    'kfac_reduce': 'K-FAC-reduce',
}
# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {'nadamw': '#000000', 'kfac_expand': '#D55E00', 'kfac_reduce': '#0072B2'}


def plot_curves(
    records: Mapping[str, Sequence[Record]],
    target: float,
    title: str,
    path: pathlib.Path,
) -> None:
    """Draws the validation metric against steps and against seconds.

    Args:
      records: Method name to its runs, one for each seed; the line is the median
        over them, the band their range.
      target: The target, drawn as a horizontal line.
      title: Title of the figure.
      path: PNG file to write.
    """
    mpl.use('Agg')
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for method, runs in records.items():
        _draw(axes[0], method, [(run.steps, run.validation) for run in runs], target)
        _draw(axes[1], method, [(run.seconds, run.validation) for run in runs], target)
    for axis, label in zip(axes, ('steps', 'seconds of training'), strict=True):
        axis.axhline(target, color='grey', linestyle='--', linewidth=1, label='target')
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('validation metric')
    axes[0].legend(loc='lower right')
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw(
    axis: Axes,
    method: str,
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    target: float,
) -> None:
    colour = COLOURS.get(method)
    # Runs of a method may stop at different times: draw what all of them cover.
    shortest = min(len(x) for x, _ in curves)
    x = np.median([x[:shortest] for x, _ in curves], axis=0)
    y = np.array([y[:shortest] for _, y in curves])
    axis.plot(x, np.median(y, axis=0), color=colour, label=LABELS.get(method, method))
    if len(curves) > 1:
        axis.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.2)
    reached = np.flatnonzero(np.median(y, axis=0) > target)
    if len(reached):
        axis.plot(x[reached[0]], np.median(y, axis=0)[reached[0]], 'o', color=colour)
