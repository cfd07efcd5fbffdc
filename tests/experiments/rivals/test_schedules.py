import pytest

from experiments.rivals.schedules import learning_rate_factor


def factors(optimizer, warmup_factor=0.1):
    return [
        learning_rate_factor(optimizer, step, warmup_factor, 100) for step in range(101)
    ]


@pytest.mark.parametrize('optimizer', ['soap', 'shampoo'])
def test_cosine(optimizer):
    values = factors(optimizer)
    assert max(values) == values[10] == 1.0
    assert values[55] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0.0, abs=1e-12)


def test_nesterov_falls_linearly_to_a_thousandth():
    values = factors('nesterov', warmup_factor=0.0)
    assert values[0] == 1.0
    assert values[20] - values[10] == pytest.approx(values[40] - values[30])
    # The decay is over before the schedule is.
    assert values[87] == values[100] == pytest.approx(0.001)


def test_muon_cools_down_over_the_last_two_fifths():
    values = factors('muon', warmup_factor=0.0)
    assert values[0] == values[60] == 1.0
    assert values[80] == pytest.approx(0.5)
    assert values[100] == 0.0


def test_schedule_free_has_none():
    assert set(factors('schedule_free_adamw')) == {1.0}
