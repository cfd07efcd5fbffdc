"""Plots of the results."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from experiments.step_time.breakdown import PARTS
from experiments.step_time.variants import NADAMW

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLOURS = ('#0072B2', '#56B4E9', '#D55E00', '#E69F00', '#009E73', '#CC79A7', '#999999')


def plot_intervals(summary: Mapping[str, Any], title: str, path: pathlib.Path) -> None:
    """Draws the ratio to NAdamW by statistics interval, with quartiles.

    Args:
      summary: What `intervals.summarise` returned.
      title: Title of the figure.
      path: PNG file to write.
    """
    mpl.use('Agg')
    variants = {name: columns for name, columns in summary.items() if name != NADAMW}
    of_first = next(iter(variants.values()))
    intervals = [c for c in of_first if c.removeprefix('every ').isdecimal()]
    figure, axis = plt.subplots(figsize=(7, 4))
    width = 0.8 / len(variants)
    places = np.arange(len(intervals))
    for number, (name, columns) in enumerate(variants.items()):
        ratios = np.array([columns[i]['ratio'] for i in intervals])
        quartiles = np.array([columns[i]['ratio_quartiles'] for i in intervals]).T
        # The median of the rounds is rounded apart from their quartiles.
        errors = np.abs(quartiles - ratios)
        axis.bar(
            places + (number - (len(variants) - 1) / 2) * width,
            ratios,
            width,
            yerr=errors,
            label=name.replace('_', '-'),
            color=_COLOURS[number],
        )
    axis.axhline(1.0, color='black', linewidth=1, label='NAdamW')
    derived = [of_first[i]['derived'] for i in intervals]
    axis.set_xticks(
        places,
        [
            f'T = {i.removeprefix("every ")}{" (derived)" if d else ""}'
            for i, d in zip(intervals, derived, strict=True)
        ],
    )
    axis.set_xlabel('steps between two updates of factors and inverses')
    axis.set_ylabel('time of a step / NAdamW')
    axis.legend()
    _save(figure, title, path)


def plot_breakdown(
    breakdown: Mapping[str, Any], title: str, path: pathlib.Path
) -> None:
    """Draws the parts of each kind of step on top of each other.

    Args:
      breakdown: Run to kind of step to part to seconds.
      title: Title of the figure.
      path: PNG file to write.
    """
    mpl.use('Agg')
    bars = {
        (name if name == NADAMW else f'{name}\n{kind}').replace('_', '-'): seconds
        for name, kinds in breakdown.items()
        for kind, seconds in kinds.items()
    }
    figure, axis = plt.subplots(figsize=(8, 5))
    left = np.zeros(len(bars))
    for part, colour in zip(PARTS, _COLOURS, strict=True):
        values = np.array([1e3 * seconds[part] for seconds in bars.values()])
        # A rest that came out negative would be drawn over the other parts.
        values = np.maximum(values, 0.0)
        axis.barh(list(bars), values, left=left, label=part, color=colour)
        left += values
    axis.invert_yaxis()
    axis.set_xlabel('ms')
    axis.legend(loc='upper center', bbox_to_anchor=(0.4, -0.12), ncols=4, fontsize=8)
    _save(figure, title, path)


def plot_scaling(
    seconds: Mapping[str, Mapping[str, Sequence[float]]],
    sizes: Mapping[str, Sequence[int]],
    exponents: Mapping[str, Mapping[str, float | None]],
    title: str,
    path: pathlib.Path,
) -> None:
    """Draws how the parts grow, both axes logarithmic.

    Args:
      seconds: What is swept to part to seconds for each size.
      sizes: What is swept to its sizes.
      exponents: What is swept to part to the fitted exponent.
      title: Title of the figure.
      path: PNG file to write.
    """
    mpl.use('Agg')
    figure, axes = plt.subplots(2, 2, figsize=(11, 8))
    for axis, (swept, of_parts) in zip(axes.flat, seconds.items(), strict=True):
        for number, (part, values) in enumerate(of_parts.items()):
            exponent = exponents[swept][part]
            fitted = '' if exponent is None else f': {exponent:.2f}'
            axis.loglog(
                sizes[swept],
                1e3 * np.array(values),
                marker='o',
                markersize=3,
                label=part + fitted,
                # Colours by part, and a line of its own for another approximation.
                color=_COLOURS[number % len(_COLOURS)],
                linestyle='-' if number < len(_COLOURS) else '--',
            )
        axis.set_xticks(sizes[swept], [str(size) for size in sizes[swept]])
        axis.minorticks_off()
        axis.set_xlabel(swept)
        axis.set_ylabel('ms')
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, title='part: fitted exponent', title_fontsize=7)
    _save(figure, title, path)


def _save(figure: Any, title: str, path: pathlib.Path) -> None:
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
