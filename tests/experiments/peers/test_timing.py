import pytest

from experiments.peers import timing
from experiments.peers.failures import Failures
from experiments.peers.method import PLAIN_ONLY, STATISTICS_FIRST, STATISTICS_LAST
from experiments.step_time.variants import NADAMW

from .methods import Counting


def test_methods_take_turns():
    log = []
    methods = {name: Counting(name, log, PLAIN_ONLY) for name in 'ab'}
    seconds = timing.in_turn(methods, 2, Failures())
    assert [name for name, _ in log] == 2 * (10 * ['a'] + 10 * ['b'])
    assert seconds['a'] == {'plain': [2.0, 2.0], 'every 10': [2.0, 2.0]}


@pytest.mark.parametrize('interval', [STATISTICS_FIRST, STATISTICS_LAST])
def test_a_turn_is_an_interval_and_begins_with_a_plain_step(interval):
    method = Counting(interval=interval)
    seconds = timing.in_turn({'a': method}, 2, Failures())
    # The first turn begins after the statistics step that may come first.
    aligning = interval is STATISTICS_FIRST
    kinds = [kind for _, kind in method.log][aligning:]
    assert kinds == 2 * list(STATISTICS_LAST)
    assert seconds['a'] == {
        'plain': [2.0, 2.0],
        'statistics': [10.0, 10.0],
        'every 10': [2.8, 2.8],
        'update': [8.0, 8.0],
    }


def test_the_first_step_of_a_turn_does_not_count():
    method = Counting(interval=PLAIN_ONLY)
    step = method.step

    def slow_at_first(batch):
        step(batch)
        method.now += 100.0 * (method.steps % 10 == 0)

    method.step = slow_at_first
    seconds = timing.in_turn({'a': method}, 1, Failures())
    assert seconds['a']['every 10'] == [2.0]


def test_a_method_that_fails_takes_no_more_turns():
    log, failures = [], Failures()
    methods = {
        'a': Counting('a', log, PLAIN_ONLY, fails_at=3),
        'b': Counting('b', log, PLAIN_ONLY),
    }
    seconds = timing.in_turn(methods, 2, failures)
    assert failures == {'a': 'RuntimeError: no more'}
    assert len(log) == 3 + 20
    assert seconds['b']['plain'] == [2.0, 2.0]


def test_ratios_are_to_nadamw_in_the_same_round():
    summary = timing.summarise(
        {NADAMW: {'every 10': [1.0, 2.0]}, 'a': {'every 10': [3.0, 6.0]}}
    )
    assert summary['a']['every 10'] == {
        'milliseconds': 4500.0,
        'milliseconds_quartiles': [3750.0, 5250.0],
        'ratio': 3.0,
        'ratio_quartiles': [3.0, 3.0],
    }
