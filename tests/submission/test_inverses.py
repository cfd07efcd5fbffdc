"""Damped inverses, of many factors at once, and what happens when one fails."""

import pytest
import torch

from submission.pytorch import inverses
from submission.pytorch.inverses import damped_inverses, mean_eigenvalue

from .curvature import double
from .host_reads import host_reads

NAN = float('nan')


def _spd(groups, dim, seed):
    root = double(groups, dim, dim, seed=seed)
    return root @ root.transpose(1, 2) + 0.1 * torch.eye(dim, dtype=root.dtype)


def _inverse(factor, damping):
    (found,) = damped_inverses([factor], damping)
    assert found.succeeded
    return found.matrix


def _indefinite(factor):
    return factor - 100 * torch.eye(5, dtype=factor.dtype)


# Damping lost to rounding leaves a pivot of exactly zero.
SINGULAR = torch.ones(1, 2, 2), 1e-16


class TestOneFactor:
    @pytest.mark.parametrize('groups', [1, 3])
    @pytest.mark.parametrize('damping', [1e-6, 0.1, 10.0])
    def test_inverts(self, groups, damping):
        factor = _spd(groups, 5, seed=1)
        eye = torch.eye(5, dtype=torch.float64)
        normalised = factor / mean_eigenvalue(factor) + damping**0.5 * eye
        torch.testing.assert_close(
            _inverse(factor, damping) @ normalised, eye.expand(groups, 5, 5)
        )

    def test_factored_tikhonov(self):
        """(A + pi sqrt(d) I) kron (B + sqrt(d) / pi I), Martens and Grosse (2015)."""
        a, b = 100 * _spd(1, 5, seed=1)[0], 0.01 * _spd(1, 4, seed=2)[0]
        damping = 0.3
        mean_a, mean_b = a.trace() / 5, b.trace() / 4
        absolute = damping * mean_a * mean_b
        pi = (mean_a / mean_b) ** 0.5
        expected_a = a + pi * absolute**0.5 * torch.eye(5, dtype=a.dtype)
        expected_b = b + absolute**0.5 / pi * torch.eye(4, dtype=b.dtype)
        found = damped_inverses([a[None], b[None]], damping)
        for one, expected in zip(found, (expected_a, expected_b), strict=True):
            natural = one.matrix[0] / one.scale
            torch.testing.assert_close(natural, torch.linalg.inv(expected))

    def test_scale_does_not_matter(self):
        factor = _spd(1, 5, seed=1)
        tiny = _inverse(1e-30 * factor, 0.1)
        torch.testing.assert_close(tiny, _inverse(factor, 0.1))

    @pytest.mark.parametrize(
        'spoil',
        [_indefinite, lambda factor: factor * NAN],
        ids=['indefinite', 'not a number'],
    )
    def test_failure_is_told(self, spoil):
        factor = _spd(2, 5, seed=1)
        factor[1] = spoil(factor[1])
        (found,) = damped_inverses([factor], 1e-3)
        assert not found.succeeded

    @pytest.mark.parametrize('value', [NAN, float('inf')])
    @pytest.mark.parametrize('place', [(0, 0), (3, 1), (4, 3), (4, 4)])
    def test_failure_by_a_single_element_is_told(self, value, place):
        factor = _spd(2, 5, seed=1)
        factor[1][place] = factor[1][place[::-1]] = value
        (found,) = damped_inverses([factor], 1e-3)
        assert not found.succeeded

    def test_failure_on_a_singular_factor_is_told(self):
        factor, damping = SINGULAR
        (found,) = damped_inverses([factor], damping)
        assert not found.succeeded


SHAPES = [(1, 5), (2, 3), (1, 5), (1, 4), (2, 3), (1, 5), (1, 1)]


class TestManyFactors:
    def _factors(self):
        return [_spd(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]

    @pytest.mark.parametrize('limit', [1, 50, 2**24], ids=['one', 'two', 'all'])
    def test_each_as_if_alone(self, limit, monkeypatch):
        monkeypatch.setattr(inverses, '_MAX_STACKED_ON_CPU', limit)
        factors = self._factors()
        found = damped_inverses(factors, 0.1)
        for factor, one in zip(factors, found, strict=True):
            (alone,) = damped_inverses([factor], 0.1)
            assert one.succeeded
            torch.testing.assert_close(one.matrix, alone.matrix)
            torch.testing.assert_close(one.scale, mean_eigenvalue(factor))

    def test_equal_shapes_are_factorised_together(self, monkeypatch):
        shapes = []
        cholesky = torch.linalg.cholesky_ex

        def recording(matrices):
            shapes.append(tuple(matrices.shape))
            return cholesky(matrices)

        monkeypatch.setattr(torch.linalg, 'cholesky_ex', recording)
        damped_inverses(self._factors(), 0.1)
        assert shapes == [(3, 1, 5, 5), (2, 2, 3, 3), (1, 1, 4, 4), (1, 1, 1, 1)]

    def test_precisions_stay_apart(self):
        factors = [_spd(1, 5, 1), _spd(1, 5, 2).float()]
        found = damped_inverses(factors, 0.1)
        assert [one.matrix.dtype for one in found] == [torch.float64, torch.float32]

    @pytest.mark.parametrize(
        'spoil',
        [_indefinite, lambda factor: factor * NAN, torch.zeros_like],
        ids=['indefinite', 'not a number', 'zero'],
    )
    @pytest.mark.parametrize('index', [0, 2, 5])
    def test_one_that_fails_does_not_spoil_the_others(self, spoil, index):
        factors = self._factors()
        expected = damped_inverses(factors, 1e-3)
        factors[index] = spoil(factors[index])
        found = damped_inverses(factors, 1e-3)
        for number, (left, right) in enumerate(zip(found, expected, strict=True)):
            assert bool(left.succeeded) == (number != index)
            if number != index:
                assert torch.equal(left.matrix, right.matrix)

    def test_neither_does_a_pivot_of_zero(self):
        singular, damping = SINGULAR
        good = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
        found = damped_inverses([good, singular, good], damping)
        assert [bool(one.succeeded) for one in found] == [True, False, True]
        for one in (found[0], found[2]):
            torch.testing.assert_close(one.matrix, 2 * torch.linalg.inv(good))

    def test_none(self):
        assert damped_inverses([], 0.1) == []

    def test_the_host_does_not_wait(self):
        factors = self._factors()
        with host_reads() as reads:
            damped_inverses(factors, 0.1)
        assert not reads
