"""Plots performance profiles."""

import math
import pathlib
import textwrap
from collections.abc import Mapping

import matplotlib as mpl
from matplotlib import pyplot as plt

from experiments.plots import COLOURS
from experiments.time_to_target.scores import Profile


def plot_profile(
    profiles: Mapping[str, Profile],
    title: str,
    path: pathlib.Path,
    labels: Mapping[str, str],
    largest: float = 8.0,
) -> None:
    """Draws performance profiles, one panel for each quantity.

    Args:
      profiles: Quantity to the profiles of the methods.
      title: Title of the figure.
      path: PNG file to write.
      labels: Method name to its name in the legend.
      largest: Multiple up to which to draw.
    """
    mpl.use('Agg')
    drawn = {name: profile for name, profile in profiles.items() if profile.multiples}
    figure, axes = plt.subplots(
        1, len(drawn), figsize=(10, 5), sharey=True, squeeze=False, layout='constrained'
    )
    entries = {}
    for axis, (quantity, profile) in zip(axes[0], drawn.items(), strict=True):
        for method, values in profile.multiples.items():
            finite = [value for value in values if value <= largest]
            x = [1.0, *finite, largest]
            shares = [i / len(values) for i in range(len(finite) + 1)]
            (entries[method],) = axis.step(
                x, [*shares, shares[-1]], where='post', color=COLOURS.get(method)
            )
        axis.set_xscale('log')
        ticks = [2.0**n for n in range(math.floor(math.log2(largest)) + 1)]
        axis.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
        axis.minorticks_off()
        axis.set_ylim(0, 1.05)
        axis.grid(alpha=0.3)
        n_seeds = len(profile.seeds)
        axis.set_xlabel(f'{quantity} / fastest method')
        axis.set_ylabel(f'share of {n_seeds} seeds that reached the target')
        if profile.left_out:
            names = ', '.join(labels.get(name, name) for name in profile.left_out)
            text = textwrap.fill(f'not drawn, fewer seeds or not timed: {names}', 60)
            axis.set_title(text, fontsize='small')
    figure.legend(
        list(entries.values()),
        [labels.get(name, name) for name in entries],
        loc='outside lower center',
        ncols=5,
    )
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
