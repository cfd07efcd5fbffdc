"""Plot of the sweeps."""

import math
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.compare import LABELS
from experiments.plots import COLOURS
from experiments.variations.results import Results
from experiments.variations.sensitivity import FACTORS, SWEPT, Sweep, curve

# Height of the line above which are the misses, and of each row there, in shares of
# the most steps. The words take a row.
_LINE, _ROW = 1.08, 0.07


def plot_sweeps(
    sweeps: Sequence[Sweep], results: Results, title: str, path: pathlib.Path
) -> None:
    """Draws a panel for each hyperparameter: steps to the target by factor.

    Args:
      sweeps: The sweeps.
      results: What has been recorded.
      title: Title of the figure.
      path: PNG file to write.
    """
    mpl.use('Agg')
    figure, axes = plt.subplots(1, len(SWEPT), figsize=(13, 4.2), sharey=True)
    curves = {
        name: {s.method: list(curve(s, results)) for s in sweeps if s.name == name}
        for name in SWEPT
    }
    most = max(
        (
            steps
            for methods in curves.values()
            for points in methods.values()
            for _, steps in points
            if math.isfinite(steps)
        ),
        default=1.0,
    )
    for axis, (name, methods) in zip(axes, curves.items(), strict=True):
        draw_panel(axis, methods, most)
        axis.set_xlabel(f'{name} / base value')
    axes[0].set_ylabel('steps to the target')
    figure.suptitle(title)
    # The first panel is the one that has all methods.
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='lower center', ncols=len(labels))
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_panel(
    axis: Axes, methods: Mapping[str, Sequence[tuple[float, float]]], most: float
) -> None:
    """Draws a hyperparameter: a line where the target is reached, crosses where not.

    The crosses are above a line at the top, each method in a row of its own.

    Args:
      axis: Where to draw.
      methods: Method to factors and steps, infinity where the target is missed.
      most: The most steps in any panel.
    """
    for number, (method, points) in enumerate(methods.items()):
        colour = COLOURS[method]
        # A gap in the line where the target is missed.
        axis.plot(
            [factor for factor, _ in points],
            [steps if math.isfinite(steps) else math.nan for _, steps in points],
            'o-',
            color=colour,
            label=LABELS[method],
        )
        missed = [factor for factor, steps in points if math.isinf(steps)]
        height = (_LINE + (number + 2) * _ROW) * most
        axis.plot(missed, [height] * len(missed), 'x', color=colour, markersize=8)
    if any(math.isinf(steps) for points in methods.values() for _, steps in points):
        line = _LINE * most
        axis.axhline(line, color='grey', linewidth=0.8)
        axis.text(
            0.02,
            line + 0.5 * _ROW * most,
            'not reached',
            transform=axis.get_yaxis_transform(),
            color='grey',
        )
    # Heights above the line are no steps.
    axis.set_yticks([tick for tick in axis.get_yticks() if tick <= most])
    axis.set_ylim(0, (_LINE + 5 * _ROW) * most)
    axis.set_xscale('log')
    axis.set_xticks(list(FACTORS.values()), list(FACTORS), minor=False)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
