import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.intervals import MAX_DOUBLINGS, interval_at, is_update_step
from submission.settings import Settings

INTERVALS = st.integers(1, 1000)
STEPS = st.integers(0, 10**6)
GROWTHS = st.floats(0.0, 0.999)


@given(STEPS, INTERVALS, GROWTHS)
def test_intervals_double_up_to_a_share_of_the_steps(step, interval, growth):
    found = interval_at(step, interval, growth)
    doublings = found // interval
    assert found == interval * doublings
    assert doublings & (doublings - 1) == 0
    assert doublings <= 2**MAX_DOUBLINGS
    if doublings > 1:
        assert found <= growth * step * (1 + 1e-12)
    if doublings < 2**MAX_DOUBLINGS:
        assert 2 * found > growth * step * (1 - 1e-12)


@given(STEPS, INTERVALS)
def test_without_growth_intervals_stay(step, interval):
    assert interval_at(step, interval, 0.0) == interval
    assert is_update_step(step, interval, 0.0) == (step <= 1 or step % interval == 0)


@pytest.mark.parametrize(
    ('start', 'end', 'interval'),
    [(10, 2000, 10), (2000, 4000, 20), (4000, 8000, 40), (64000, 70000, 80)],
)
def test_updates_of_a_growth_of_one_percent(start, end, interval):
    updates = [s for s in range(start, end) if is_update_step(s, 10, 0.01)]
    assert updates == [s for s in range(start, end) if s % interval == 0]


@given(st.floats(0.001, 0.1), st.sampled_from([1, 2, 8]))
def test_inverses_are_renewed_in_steps_that_renew_the_factors(growth, multiple):
    settings = Settings(
        statistics_interval=10, inverse_interval=10 * multiple, interval_growth=growth
    )
    inverse_steps = [s for s in range(20000) if settings.is_inverse_step(s)]
    assert all(settings.is_statistics_step(step) for step in inverse_steps)
