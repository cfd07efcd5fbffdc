import dataclasses
import math

import pytest
from matplotlib import pyplot as plt

from experiments import plots
from experiments.step_seconds import StepSeconds
from tests.experiments.time_to_target.records import make_record

TARGET = 0.5


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws, and returns the panels, the row of times first."""

    def run(records, costs=None):
        monkeypatch.setattr(plots.plt, 'close', lambda figure: None)
        path = tmp_path / 'curves.png'
        plots.plot_curves(records, TARGET, 'title', path, {}, costs)
        assert path.read_bytes().startswith(b'\x89PNG')
        axes = plt.gcf().axes
        plt.close('all')
        half = len(axes) // 2
        return axes[:half], axes[half:]

    return run


def stopped(seed, reaches_at, last):
    """A run that ends where it reaches the target."""
    return make_record('nadamw', 0, seed, reaches_at, steps=range(10, last + 1, 10))


RUNS = [stopped(0, 20, 20), stopped(1, 40, 40), stopped(2, 60, 60)]


def line_of(axis, label):
    return next(line for line in axis.lines if line.get_label() == label)


def test_when_runs_reached_the_target():
    x, y = [[1, 2, 3], [1, 2], [2, 4]], [[0, 0.6, 0.4], [0, 0.5], [0.6, 0.7]]
    assert plots.times_to(TARGET, x, y) == [2, 2, math.inf]


def test_median_goes_to_where_the_median_run_reached_the_target(draw):
    upper, lower = draw({'nadamw': RUNS})
    line = line_of(lower[0], 'nadamw')
    assert list(line.get_xdata()) == [10, 20, 30, 40]
    # At 30 two of three runs are still below it, at 40 one.
    assert list(line.get_ydata() > TARGET) == [False, False, False, True]
    bar, *_, dot = upper[0].lines
    assert list(bar.get_xdata()) == [20, 60]
    assert list(dot.get_xdata()) == [40]


def test_a_run_that_never_got_there_is_an_arrow(draw):
    upper, _ = draw({'nadamw': [*RUNS[:2], stopped(2, None, 100)]})
    bar, _, end, dot = upper[0].lines
    assert list(bar.get_xdata()) == [20, 100]
    assert end.get_marker() == '>'
    assert list(dot.get_xdata()) == [40]


def test_no_mark_without_a_run_that_got_there(draw):
    upper, _ = draw({'nadamw': [stopped(0, None, 100)]})
    assert not upper[0].lines


def test_only_timed_methods_are_drawn_against_seconds(draw):
    other = dataclasses.replace(
        RUNS[0], trial=dataclasses.replace(RUNS[0].trial, method='soap')
    )
    records = {'nadamw': RUNS[:1], 'soap': [other]}
    _, lower = draw(records, {'nadamw': StepSeconds(2.0, 1.0)})
    drawn = [{line.get_label() for line in axis.lines} for axis in lower]
    assert drawn == [{'target', 'nadamw', 'soap'}, {'target', 'nadamw'}]
    assert list(line_of(lower[1], 'nadamw').get_xdata()) == [21.0, 41.0]
    assert len(draw(records, {})[0]) == 1
    # The seconds of the runs.
    _, lower = draw(records)
    assert list(line_of(lower[1], 'soap').get_xdata()) == [5.0, 10.0]
