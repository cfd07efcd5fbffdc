import pytest

from experiments import compare
from experiments.variations import points
from tests.experiments.variations.records import WORKLOAD, point


def test_base_points_are_those_of_the_comparison():
    bases = points.base_points(['reduce', 'expand'], WORKLOAD)
    assert list(bases) == ['reduce', 'expand']
    for approximation, base in bases.items():
        assert base['approximation'] == approximation
        assert base == compare.hyperparameters_of(f'kfac_{approximation}', WORKLOAD)


def test_unknown_approximations_are_refused():
    with pytest.raises(ValueError, match=r"No approximation 'none'; .* expand and r"):
        points.base_points(['none'], WORKLOAD)


def test_method_follows_the_approximation():
    found = [point(approximation=a).method for a in ('none', 'expand', 'reduce')]
    assert found == ['nadamw', 'kfac_expand', 'kfac_reduce']


def test_names_keep_the_order_of_the_study():
    assert points.choose_names(['c', 'a'], ['a', 'b', 'c']) == ['a', 'c']
    assert points.choose_names([], ['a', 'b']) == ['a', 'b']
    with pytest.raises(ValueError, match="--only: there is no 'x'; there are a, b"):
        points.choose_names(['x'], ['a', 'b'])
