import pytest

from experiments.rivals.settings import RivalSettings
from workloads_overrides.runner.search_space import as_hyperparameters

POINT = {
    'optimizer': 'soap',
    'learning_rate': 1e-2,
    'one_minus_beta1': 0.1,
    'weight_decay': 0.1,
    'warmup_factor': 0.05,
    'step_hint_factor': 0.5,
}


def parse(**changes):
    return RivalSettings.from_hyperparameters(as_hyperparameters({**POINT, **changes}))


def test_values_arrive():
    assert parse(beta2=0.99).beta2 == 0.99
    assert parse().optimizer == 'soap'


def test_an_unknown_optimizer():
    with pytest.raises(ValueError, match="'optimizer' is 'adam'; allowed: nesterov"):
        parse(optimizer='adam')


@pytest.mark.parametrize('value', [-1.0, 'fast', None])
def test_a_value_out_of_range_names_its_key(value):
    with pytest.raises(ValueError, match="'learning_rate'"):
        parse(learning_rate=value)


def test_an_unknown_key():
    with pytest.raises(ValueError, match='damping'):
        parse(damping=0.1)


@pytest.mark.parametrize('value', [3, 0, 2.5])
def test_a_root_that_nobody_proposed(value):
    with pytest.raises(ValueError, match=r"'shampoo_root' is .*allowed: 2, 4"):
        parse(shampoo_root=value)
