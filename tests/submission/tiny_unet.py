"""A small U-Net in both frameworks, built as AlgoPerf's for fastMRI is.

Images are halved by pooling, brought back to their size by a transposed convolution of
kernel and stride 2 without a bias, and joined with those of the same size.
"""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from workloads_overrides import spec

from .jax.tiny_workload import TinyWorkload as JaxWorkload
from .tiny_workload import TinyWorkload as PyTorchWorkload

SIZE = 8


def images(seed, n):
    """Images with noise, and without it: smooth ones of mean 0 and variance 1."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((n, SIZE // 4, SIZE // 4))
    coarse -= coarse.mean((1, 2), keepdims=True)
    coarse /= coarse.std((1, 2), keepdims=True)
    clean = coarse.repeat(4, 1).repeat(4, 2)
    return clean + 0.5 * rng.standard_normal(clean.shape), clean


class PyTorchUNet(nn.Module):
    """Maps images `[N, H, W]` to images."""

    def __init__(self, normalise=True):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.middle = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False)
        self.merge = nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.last = nn.Conv2d(4, 1, 1)
        self._normalise = normalise

    def _activated(self, x):
        if self._normalise:
            x = functional.instance_norm(x)
        return functional.leaky_relu(x, 0.2)

    def forward(self, x, dropout_rate=0.0):
        del dropout_rate
        fine = self._activated(self.down(x.unsqueeze(1)))
        coarse = self._activated(self.middle(functional.avg_pool2d(fine, 2)))
        x = torch.cat([self._activated(self.up(coarse)), fine], 1)
        return self.last(self._activated(self.merge(x))).squeeze(1)


class FlaxUNet(flax.linen.Module):
    """The same; the parameters are those of `flax_parameters`."""

    normalise: bool = True

    @flax.linen.compact
    def __call__(self, x, train, dropout_rate):
        del train, dropout_rate

        def conv(features, name):
            return flax.linen.Conv(features, (3, 3), use_bias=False, name=name)

        def activated(x):
            if self.normalise:
                # Over pixels alone: a group for each channel.
                x = flax.linen.GroupNorm(
                    None, 1, epsilon=1e-5, use_bias=False, use_scale=False
                )(x)
            return flax.linen.leaky_relu(x, 0.2)

        fine = activated(conv(4, 'down')(x[..., None]))
        coarse = flax.linen.avg_pool(fine, (2, 2), (2, 2))
        coarse = activated(conv(6, 'middle')(coarse))
        up = flax.linen.ConvTranspose(4, (2, 2), (2, 2), use_bias=False, name='up')
        x = jnp.concatenate([activated(up(coarse)), fine], -1)
        x = activated(conv(4, 'merge')(x))
        return flax.linen.Conv(1, (1, 1), name='last')(x)[..., 0]


def flax_parameters(model):
    """The parameters of a PyTorch U-Net as those of the one in Flax."""
    params = {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.partition('.')
        values = parameter.detach().numpy().copy()
        if module == 'up':
            # Flax does not flip the kernel as PyTorch does.
            values = values.transpose(2, 3, 0, 1)[::-1, ::-1].copy()
        elif kind == 'weight':
            values = values.transpose(2, 3, 1, 0)
        key = 'kernel' if kind == 'weight' else 'bias'
        params.setdefault(module, {})[key] = values
    return params


class PyTorchUNetWorkload(PyTorchWorkload):
    """Takes noise out of images; the loss is the mean absolute error of each."""

    def __init__(self, normalise=True, dtype=torch.float32):
        super().__init__(spec.LossType.MEAN_ABSOLUTE_ERROR, dtype=dtype)
        self._normalise = normalise

    def batch(self, seed=0, n=8, weighted=False):
        inputs, targets = (torch.from_numpy(x).to(self._dtype) for x in images(seed, n))
        return {'inputs': inputs, 'targets': targets}

    def init_model_fn(self, rng):
        torch.manual_seed(int(rng[0]))
        return PyTorchUNet(self._normalise).to(self._dtype), None

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        losses = (logits_batch - label_batch).abs().mean((1, 2))
        return {
            'summed': losses.sum(),
            'n_valid_examples': torch.tensor(float(len(losses))),
            'per_example': losses,
        }


class JaxUNetWorkload(JaxWorkload):
    """The same."""

    def __init__(self, normalise=True, dtype=np.float32):
        super().__init__(spec.LossType.MEAN_ABSOLUTE_ERROR, FlaxUNet(normalise))
        self._dtype = dtype

    def batch(self, seed=0, n=8, weighted=False):
        inputs, targets = (x.astype(self._dtype) for x in images(seed, n))
        return {'inputs': inputs, 'targets': targets}

    def init_model_fn(self, rng):
        params, model_state = super().init_model_fn(rng)
        return jax.tree.map(lambda x: x.astype(self._dtype), params), model_state

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        losses = jnp.abs(logits_batch - label_batch).mean((1, 2))
        return {
            'summed': losses.sum(),
            'n_valid_examples': jnp.asarray(float(losses.size)),
            'per_example': losses,
        }
