"""What the curvature tests share: K-FAC blocks, their errors, batches of graphs."""

import math
from typing import NamedTuple

import torch
from torch import nn

from experiments import ggn
from experiments.exactness import type_2_factors

EXACT = 1e-12
WRONG = 0.05


class Graphs(NamedTuple):
    """The fields of a batch of graphs that matter here; the names are jraph's."""

    nodes: torch.Tensor
    edges: torch.Tensor
    n_node: torch.Tensor
    n_edge: torch.Tensor

    def graph_of_node(self):
        return torch.arange(len(self.n_node)).repeat_interleave(self.n_node)


def double(*shape, seed=0):
    """Standard normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def covariance(dim, seed=0):
    """A random positive definite matrix."""
    root = double(dim, dim, seed=seed)
    return root @ root.T + 0.1 * torch.eye(dim, dtype=torch.float64)


def gaussian(precision):
    """The summed negative log-likelihood of zero labels, as a function of outputs."""

    def loss(outputs):
        return 0.5 * torch.einsum('...i,ij,...j->', outputs, precision, outputs)

    return loss


def batch_of(inputs, **more):
    """An AlgoPerf batch; only the number of targets matters to K-FAC."""
    return {'inputs': inputs, 'targets': torch.zeros(len(inputs)), **more}


def kron(factors):
    """A kron B for each group."""
    return torch.stack([torch.kron(a, b) for a, b in zip(*factors, strict=True)])


def layer_errors(
    model, batch, loss, loss_terms, name, *, groups=1, normalisation='mean_inputs'
):
    """Relative errors of both approximations of a layer's GGN block."""
    module = model.get_submodule(name)
    bias = module.bias
    exact = ggn.layer_ggn(
        model,
        (batch['inputs'],),
        loss,
        loss_terms,
        f'{name}.weight',
        None if bias is None else f'{name}.bias',
        groups,
        isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d),
    )
    return {
        approximation: ggn.relative_error(
            kron(
                type_2_factors(
                    model, batch, loss, loss_terms, approximation, normalisation
                )[name]
            ),
            exact,
        )
        for approximation in ('expand', 'reduce')
    }


def error_bound(samples, factor=4.0):
    """How far the mean of samples may be off: it falls like 1 / sqrt(samples)."""
    return factor / math.sqrt(samples)
