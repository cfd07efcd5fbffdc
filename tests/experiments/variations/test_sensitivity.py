import math

import pytest
from matplotlib import pyplot as plt

from experiments import compare
from experiments.variations import sensitivity, sensitivity_plot
from experiments.variations.sensitivity_table import format_table
from submission.settings import Settings
from tests.experiments.variations.records import WORKLOAD, make_results

ALL = sensitivity.make_sweeps(WORKLOAD, ['expand', 'reduce'])


def sweep_of(name, method):
    (found,) = [s for s in ALL if (s.name, s.method) == (name, method)]
    return found


def test_nadamw_is_swept_in_the_learning_rate_alone():
    assert [(sweep.name, sweep.method) for sweep in ALL] == [
        ('learning_rate', 'nadamw'),
        ('learning_rate', 'kfac_expand'),
        ('learning_rate', 'kfac_reduce'),
        ('damping', 'kfac_expand'),
        ('damping', 'kfac_reduce'),
        ('interval', 'kfac_expand'),
        ('interval', 'kfac_reduce'),
    ]
    assert sweep_of('learning_rate', 'nadamw').base == compare.hyperparameters_of(
        'nadamw', WORKLOAD
    )


@pytest.mark.parametrize(
    ('name', 'keys', 'values'),
    [
        ('learning_rate', ['learning_rate'], [0.001, 0.0025, 0.005, 0.01, 0.02, 0.04]),
        ('damping', ['damping'], [0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 1.0]),
        (
            'interval',
            ['statistics_interval', 'inverse_interval'],
            [1, 3, 5, 10, 20, 40, 100],
        ),
    ],
)
def test_only_what_is_swept_differs(name, keys, values):
    sweep = sweep_of(name, 'kfac_reduce')
    found = [point.hyperparameters for point in sweep.points.values()]
    for key in keys:
        assert [point[key] for point in found][: len(values)] == values
        assert {type(point[key]) for point in found} == {type(values[0])}
    for point in found:
        Settings.from_hyperparameters(point)
        assert {**point, **{key: sweep.base[key] for key in keys}} == sweep.base
    assert sweep.points['1'].hyperparameters == sweep.base


def test_factors_are_those_after_rounding():
    sweep = sweep_of('interval', 'kfac_expand')
    factors = [sweep.factor_of(point) for point in sweep.points.values()]
    assert factors == [0.1, 0.3, 0.5, 1, 2, 4, 10]


def some_results():
    expand, reduce = (sweep_of('damping', f'kfac_{a}') for a in ('expand', 'reduce'))
    at = [{'reaches_at': 10}, {'reaches_at': 20}, {'reaches_at': 30}]
    return make_results(
        [
            (expand.points['1/2'], at),
            (expand.points['1'], [*at[:2], {}]),
            (expand.points['2'], [{}, {}, at[0]]),
            (reduce.points['1'], at[:2]),
        ]
    )


def test_curve_and_misses():
    results = some_results()
    found = list(sensitivity.curve(sweep_of('damping', 'kfac_expand'), results))
    assert found == [(0.5, 20), (1.0, 20), (2.0, math.inf)]
    assert list(sensitivity.curve(sweep_of('damping', 'kfac_reduce'), results)) == []


def test_table():
    lines = format_table(ALL, some_results()).splitlines()
    assert 'validation accuracy is above 0.5' in lines[0]
    assert 'seeds (0, 1, 2)' in lines[0]
    assert lines[2].startswith('| Hyperparameter | Method | Base value | × 1/10 |')
    # The base point is in all sweeps; those without a complete point have no line.
    assert lines[4:] == [
        '| learning_rate | K-FAC-expand | 0.01 |  |  |  | 20 (10, 20, -) |  |  |  |',
        '| damping | K-FAC-expand | 0.1 |  |  | 20 (10, 20, 30) | 20 (10, 20, -) '
        '| - (-, -, 10) |  |  |',
        '| interval | K-FAC-expand | 10 |  |  |  | 20 (10, 20, -) |  |  |  |',
    ]


def words_and_crosses(methods):
    figure, axis = plt.subplots()
    sensitivity_plot.draw_panel(axis, methods, most=40)
    words = [text.get_text() for text in axis.texts]
    crosses = [
        (x, y)
        for line in axis.lines
        if line.get_marker() == 'x'
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]
    plt.close(figure)
    return words, crosses, axis.get_ylim()[1]


def test_misses_are_marked_above_all_steps():
    words, crosses, top = words_and_crosses(
        {
            'kfac_expand': [(0.5, 40), (1.0, 20), (2.0, math.inf)],
            'kfac_reduce': [(1.0, 20), (2.0, math.inf)],
        }
    )
    assert words == ['not reached']
    assert [x for x, _ in crosses] == [2.0, 2.0]
    assert 40 < crosses[0][1] < crosses[1][1] < top


def test_nothing_is_marked_where_all_reach_the_target():
    words, crosses, _ = words_and_crosses({'kfac_expand': [(0.5, 40), (1.0, 20)]})
    assert words == crosses == []


def test_plot_of_partial_results(tmp_path):
    sensitivity_plot.plot_sweeps(ALL, some_results(), 'title', tmp_path / 'some.png')
    assert (tmp_path / 'some.png').stat().st_size > 0
