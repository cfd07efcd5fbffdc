"""Agreement with curvlinops, an independent implementation of both approximations.

Its operator for the parameters of one layer is compared as a matrix. Its scale is
that of its loss: with `reduction='mean'` the block of the mean loss, as here, and
with `reduction='sum'` that of the summed loss, M times as large. For a convolution
with groups it averages over them, which is another approximation.
"""

import functools
import itertools

import pytest
import torch
from torch import nn

from experiments import ggn
from experiments.exactness import make_sums, type_2_factors
from submission.pytorch.capture import Capture
from submission.pytorch.layers import assign_parameters
from submission.pytorch.weight_sharing import BatchStructure
from workloads_overrides.imagenet_vit_fashion_mnist.pytorch_model import ViT

from .curvature import batch_of, double

curvlinops = pytest.importorskip('curvlinops')

N, CLASSES = 3, 4
TARGETS = torch.tensor([0, 3, 1])


def _vit():
    model = ViT(
        num_classes=CLASSES,
        image_size=4,
        channels=2,
        patch_size=2,
        width=8,
        depth=1,
        mlp_dim=6,
        num_heads=2,
    )
    nn.init.normal_(model.head.weight)
    return model.double(), double(N, 2, 4, 4)


def _cnn():
    """Strided, padded and dilated convolutions, pooled."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=(2, 1), padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, (2, 3), padding=(0, 1), dilation=(2, 1), bias=False),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )
    return model.double(), double(N, 2, 7, 5)


def _sequence_model():
    """A loss term for each position; positions do not see each other."""
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    return model.double(), double(N, 3, 5)


MODELS = {'vit': _vit, 'cnn': _cnn, 'per position': _sequence_model}


def _targets(inputs, model):
    shape = model(inputs).shape[:-1]
    return TARGETS.reshape(N, *[1] * (len(shape) - 1)).expand(shape)


def _cross_entropy(targets, reduction):
    def loss(outputs):
        flat = outputs.flatten(0, -2)
        return nn.functional.cross_entropy(flat, targets.flatten(), reduction=reduction)

    return loss


def _empirical_factors(model, batch, loss, loss_terms, approximation, scale):
    layers, _ = assign_parameters(model, 1024)
    empty = functools.partial(make_sums, approximation=approximation)
    with Capture(layers, BatchStructure.from_batch(batch), empty) as capture:
        value = loss(model(batch['inputs']))
        capture.watch_backward()
        value.backward()
    return {
        name: sums.kronecker_factors(loss_terms, scale)
        for name, sums in capture.sums().items()
    }


class ClassesSecond(nn.Module):
    """`nn.CrossEntropyLoss` wants the classes on the second axis."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).movedim(-1, 1)


def _operator_matrix(model, layer, inputs, targets, approximation, fisher, reduction):
    """The block of a layer for weight and bias, each flattened, as a matrix."""
    operator = curvlinops.KFACLinearOperator(
        ClassesSecond(model),
        nn.CrossEntropyLoss(reduction=reduction),
        layer.parameters,
        [(inputs, targets)],
        check_deterministic=False,
        fisher_type=fisher,
        kfac_approx=approximation,
        separate_weight_and_bias=False,
    )
    size = sum(parameter.numel() for parameter in layer.parameters)
    return torch.as_tensor(operator @ torch.eye(size, dtype=torch.float64))


def _matrix(layer, factors):
    """A kron B in the order of weight and bias, each flattened row by row."""
    a, b = (factor[0] for factor in factors)
    rows = torch.kron(b, a)
    order = torch.arange(len(rows)).view(layer.output_dim, layer.input_dim)
    if layer.bias is not None:
        order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
    order = order.flatten()
    return rows[order][:, order]


CASES = [
    case
    for case in itertools.product(
        MODELS, ('expand', 'reduce'), ('type-2', 'empirical'), ('mean', 'sum')
    )
    # curvlinops sends the columns of all loss terms of an example back together. In
    # the sum over positions that mixes terms whose labels are independent.
    if case[:3] != ('per position', 'reduce', 'type-2')
]


@pytest.mark.parametrize(('name', 'approximation', 'fisher', 'reduction'), CASES)
def test_same_blocks(name, approximation, fisher, reduction):
    model, inputs = MODELS[name]()
    batch, targets = batch_of(inputs), _targets(inputs, model)
    loss_terms = targets.numel()
    if fisher == 'type-2':
        factors = type_2_factors(
            model, batch, _cross_entropy(targets, 'sum'), loss_terms, approximation
        )
    else:
        factors = _empirical_factors(
            model,
            batch,
            _cross_entropy(targets, reduction),
            loss_terms,
            approximation,
            loss_terms if reduction == 'mean' else 1.0,
        )
    layers, _ = assign_parameters(model, 1024)
    assert factors.keys() == {layer.name for layer in layers}
    of_its_loss = loss_terms if reduction == 'sum' else 1.0
    for layer in layers:
        expected = _operator_matrix(
            model, layer, inputs, targets, approximation, fisher, reduction
        )
        found = _matrix(layer, factors[layer.name]) * of_its_loss
        if layer.name.endswith('.key') and approximation == 'reduce':
            # Softmax ignores what all keys have in common, so the sum over positions
            # of their gradients is zero and what is left is rounding.
            assert max(found.abs().max(), expected.abs().max()) < 1e-25
            continue
        assert ggn.relative_error(found, expected) < 1e-10
