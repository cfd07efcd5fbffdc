import pytest

from experiments.step_time import intervals


class ScriptedRun:
    """Takes as long for a step as it is told to."""

    def __init__(self, plain, statistics=None, factors=None):
        self._seconds = {'plain': plain, 'statistics': statistics, 'factors': factors}
        self.taken = []

    def warm_up(self):
        pass

    def take(self, kind, number=1):
        self.taken += [kind] * number
        return self._seconds[kind]


def test_intervals_1_and_10_are_measured_and_others_are_derived():
    runs = {'nadamw': ScriptedRun(1.0), 'reduce': ScriptedRun(1.1, 2.1, 1.6)}
    seconds = intervals.measure(runs, rounds=2)
    assert seconds == {
        'reduce': {
            'nadamw': [1.0] * 2,
            'plain': [1.1] * 2,
            'factors': [1.6] * 2,
            'statistics': [2.1] * 2,
            'every 1': [2.1] * 2,
            'every 10': [1.2] * 2,
        }
    }
    # The first of them does not count.
    expected = ['plain', 'statistics'] + ['plain'] * 9
    expected += ['factors'] * 3 + ['statistics'] * 3
    assert runs['reduce'].taken == 2 * expected
    summary = intervals.summarise(seconds)
    assert summary['nadamw']['plain']['milliseconds'] == 1000
    ratios = {name: values['ratio'] for name, values in summary['reduce'].items()}
    assert ratios == {
        'plain': 1.1,
        'factors': 1.6,
        'statistics': 2.1,
        'every 1': 2.1,
        'every 10': 1.2,
        'every 1, inverses every 10': pytest.approx(1.65),
        'every 50': pytest.approx(1.12),
    }
    derived = [n for n, values in summary['reduce'].items() if values['derived']]
    assert derived == ['every 1, inverses every 10', 'every 50']


def test_ratios_are_to_the_steps_of_nadamw_next_to_them():
    """So a machine that gets slower between rounds does not count."""
    columns = {
        'nadamw': [1.0, 3.0, 9.0],
        'plain': [1.0, 3.0, 9.0],
        'factors': [1.5, 4.5, 13.5],
        'statistics': [2.0, 6.0, 18.0],
        'every 1': [2.0, 6.0, 18.0],
        'every 10': [1.5, 3.0, 18.0],
    }
    summary = intervals.summarise({'expand': columns})['expand']
    assert summary['statistics']['ratio'] == 2.0
    assert summary['statistics']['ratio_quartiles'] == [2.0, 2.0]
    assert summary['every 10']['ratio'] == 1.5
    assert summary['every 10']['milliseconds'] == 3000
    assert summary['every 10']['ratio_quartiles'] == [1.25, 1.75]
