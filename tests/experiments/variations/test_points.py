import pytest

from experiments.time_to_target.methods import METHODS
from experiments.variations import points
from tests.experiments.variations.records import point


def test_base_points_are_the_first_of_the_search_spaces():
    bases = points.base_points(['reduce', 'expand'])
    assert list(bases) == ['reduce', 'expand']
    for approximation, base in bases.items():
        assert base['approximation'] == approximation
        assert base == METHODS[f'kfac_{approximation}'].points[0]


def test_unknown_approximations_are_refused():
    with pytest.raises(ValueError, match=r"No approximation 'none'; .* expand and r"):
        points.base_points(['none'])


def test_method_follows_the_approximation():
    found = [point(approximation=a).method for a in ('none', 'expand', 'reduce')]
    assert found == ['nadamw', 'kfac_expand', 'kfac_reduce']


def test_names_keep_the_order_of_the_study():
    assert points.choose_names(['c', 'a'], ['a', 'b', 'c']) == ['a', 'c']
    assert points.choose_names([], ['a', 'b']) == ['a', 'b']
    with pytest.raises(ValueError, match="--only: there is no 'x'; there are a, b"):
        points.choose_names(['x'], ['a', 'b'])
