"""Gradients that cancel over positions are told from those that do not."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from submission.jax import approximations as jax_approximations
from submission.jax.weight_sharing import SharedTensor as JaxSharedTensor
from submission.pytorch.approximations import ReduceSums
from submission.pytorch.weight_sharing import SharedTensor
from submission.vanishing import rounding_share
from tests.workloads_overrides.double_precision import double_precision

CHANNELS = 8
# Up to that of fastMRI's images.
sizes = pytest.mark.parametrize('size', [7, 64, 320])


def sums_to_nothing(gradients):
    """Whether K-FAC-reduce takes gradients `[N, R, 1, channels]` for cancelled."""
    sums = ReduceSums(False, 'mean_inputs')
    ones = torch.ones(len(gradients), 1, 1, 1, dtype=gradients.dtype)
    sums.add_inputs(SharedTensor(ones, None, len(gradients), gradients.shape[1]))
    sums.add_gradients(SharedTensor(gradients, None, len(gradients)))
    nonzero = sums.sums().gradients.count_nonzero()
    assert nonzero in (0, CHANNELS**2)
    return nonzero == 0


def before_a_normalisation(size, dtype):
    """Gradients of what an instance normalisation is applied to, `[N, R, 1, d]`."""
    torch.manual_seed(0)
    images = torch.randn(2, 1, size, size, dtype=dtype)
    model = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False),
        nn.InstanceNorm2d(CHANNELS),
        nn.LeakyReLU(0.2),
        nn.Conv2d(CHANNELS, 1, 1),
    ).to(dtype)
    normalised = model[0](images).detach().requires_grad_()
    error = model[1:](normalised) - torch.randn(2, 1, size, size, dtype=dtype)
    error.abs().mean((1, 2, 3)).sum().backward()
    return normalised.grad.flatten(2).transpose(1, 2).unsqueeze(2)


@sizes
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_below_a_normalisation_in_pytorch(size, dtype):
    precise = torch.promote_types(dtype, torch.float32)
    gradients = before_a_normalisation(size, precise).to(dtype)
    assert gradients.count_nonzero() > 0
    assert sums_to_nothing(gradients)


@sizes
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_below_a_normalisation_in_jax(size, dtype):
    rng = np.random.default_rng(0)
    images, targets = rng.standard_normal((2, 2, size, size, CHANNELS)).astype(dtype)
    norm = flax.linen.LayerNorm(
        reduction_axes=(1, 2), use_scale=False, use_bias=False, dtype=dtype
    )

    def loss(images):
        outputs = flax.linen.leaky_relu(norm.apply({}, images), 0.2)
        return jnp.abs(outputs - targets).mean()

    with double_precision():
        gradients = jax.jit(jax.grad(loss))(images)
        gradients = gradients.reshape(2, size**2, 1, CHANNELS)
        assert gradients.dtype == dtype
        sums = jax_approximations.ReduceSums('mean_inputs')
        ones = jnp.ones((2, 1, 1, 1), dtype)
        added = sums.application(
            None,
            JaxSharedTensor(ones, None, None, 2, size**2),
            JaxSharedTensor(gradients, None, None, 2),
            dtype,
        )
        left = (added['gradients'] ** 2).sum()
        assert 0 < left < added['gradient_rounding']


@sizes
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_independent_gradients_are_curvature(size, dtype):
    """A twentieth of their size, even in half precision, is no rounding error."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(2, size**2, 1, CHANNELS, generator=generator)
    assert not sums_to_nothing(gradients.to(dtype))


def test_the_share_grows_with_the_positions():
    eps = float(np.finfo(np.float32).eps)
    assert rounding_share(eps, 1) == rounding_share(eps, 400) == 100 * eps
    assert rounding_share(eps, 320**2) == pytest.approx(320**3 / 100 * eps)
    assert rounding_share(eps, 1e6) == rounding_share(2**-8, 1) == 0.05
