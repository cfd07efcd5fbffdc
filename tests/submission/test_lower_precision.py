"""Statistics of passes in 16 bits: sums and counts are in single precision."""

import pytest
import torch
from torch import nn

from submission.pytorch.approximations import ExpandSums, ReduceSums
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.pytorch.weight_sharing import Segments, SharedTensor
from submission.settings import Settings

from .curvature import batch_of

D = 6
half = pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
both = pytest.mark.parametrize('approximation', ['expand', 'reduce'])


def _make_sums(approximation):
    if approximation == 'expand':
        return ExpandSums(True)
    return ReduceSums(True, 'mean_inputs')


def _values(n, positions, seed):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + torch.randn(n, positions, 1, D, generator=generator)


def _shared(values, varying):
    n = len(values)
    if not varying:
        return SharedTensor(values, None, n)
    rows = values.flatten(0, 1)
    segments = Segments(torch.arange(n) * values.shape[1], len(rows))
    return SharedTensor(rows, segments, n)


def _factors(approximation, inputs, gradients, varying=False):
    sums = _make_sums(approximation)
    sums.add_inputs(_shared(inputs, varying))
    sums.add_gradients(_shared(gradients, varying))
    return sums.sums().kronecker_factors(len(inputs))


@half
@both
@pytest.mark.parametrize('varying', [False, True])
def test_more_positions_than_the_precision_counts(dtype, approximation, varying):
    """In 16 bits sums of ones end at 256 or 2048, and none passes 65504 in float16."""
    inputs, gradients = _values(20, 4000, 1), _values(20, 4000, 2)
    found = _factors(approximation, inputs.to(dtype), gradients.to(dtype), varying)
    expected = _factors(approximation, inputs.double(), gradients.double())
    for factor, exact in zip(found, expected, strict=True):
        assert factor.dtype == torch.float32
        error = torch.linalg.norm(factor - exact) / torch.linalg.norm(exact)
        assert error < 0.02


@both
def test_a_layer_that_is_applied_many_times(approximation):
    sums = _make_sums(approximation)
    inputs, gradients = (_values(4, 1, s).to(torch.bfloat16) for s in (1, 2))
    for _ in range(1000):
        sums.add_inputs(_shared(inputs, False))
        sums.add_gradients(_shared(gradients, False))
    found = sums.sums().kronecker_factors(1.0)
    times = 1000 if approximation == 'expand' else 1000**2
    expected = _factors(approximation, inputs.double(), gradients.double())
    torch.testing.assert_close(
        found[0].double(), expected[0], rtol=0.01, atol=0.01, check_dtype=False
    )
    torch.testing.assert_close(
        found[1].double(), 4 * times * expected[1], rtol=0.01, atol=0.01 * times
    )


@half
def test_gradients_that_partly_cancel_are_curvature(dtype):
    gradients = _values(8, 49, 1)
    gradients -= gradients.mean(1, keepdim=True)
    cancelled = gradients.to(dtype)
    _, factor_b = _factors('reduce', _values(8, 49, 2), cancelled)
    assert factor_b.count_nonzero() == 0
    # A ratio of squares of about 0.5, well above what is rounded off.
    partly = (gradients + 0.1).to(dtype)
    ratio = partly.double().sum(1).norm() ** 2 / partly.double().norm() ** 2
    assert 0.4 < ratio < 0.6
    _, factor_b = _factors('reduce', _values(8, 49, 2), partly)
    assert factor_b.count_nonzero() == factor_b.numel()


@half
def test_parameters_in_16_bits(dtype):
    """The factors are inverted in single precision; the gradient keeps its own."""
    model = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs = _values(8, 3, 1)[:, :, 0]
    preconditioned = []
    for precision in (torch.float64, dtype):
        model = model.to(precision)
        preconditioner = KFACPreconditioner(model, Settings(approximation='expand'))
        batch = batch_of(inputs.to(precision))
        with preconditioner.capture(batch) as capture:
            outputs = model(batch['inputs'])
            capture.watch_backward()
            model.zero_grad()
            outputs.square().sum().backward()
        preconditioner.update_factors(capture, 24.0, 1.0)
        preconditioner.update_inverses()
        assert preconditioner.counters['failed_inverses'] == 0
        for layer in preconditioner.layers:
            gradients = [parameter.grad for parameter in layer.parameters]
            preconditioned.append(preconditioner.precondition(layer, gradients))
    for exact, found in zip(preconditioned[:2], preconditioned[2:], strict=True):
        for left, right in zip(exact, found, strict=True):
            assert right.dtype == dtype
            assert torch.linalg.norm(right - left) < 0.1 * torch.linalg.norm(left)


def test_products_are_not_cast_down_by_autocast():
    model = nn.Sequential(nn.Linear(D, 2))
    inputs = _values(50, 3, 1)[:, :, 0]
    preconditioner = KFACPreconditioner(model, Settings(approximation='expand'))
    with (
        torch.autocast('cpu', torch.bfloat16),
        preconditioner.capture(batch_of(inputs)) as capture,
    ):
        outputs = model(inputs)
        capture.backward_to_layers(outputs, torch.ones_like(outputs))
    rows = torch.cat([inputs.flatten(0, 1), torch.ones(150, 1)], 1)
    torch.testing.assert_close(capture.sums()['0'].inputs[0], rows.T @ rows)
