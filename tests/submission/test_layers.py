"""Rows and matrices of each kind of layer, and who trains which parameter."""

import re

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from submission.assignments import format_assignments
from submission.pytorch.convolutions import ConvLayer, ConvTransposeLayer
from submission.pytorch.layers import LinearLayer, assign_parameters

from .curvature import double
from .strategies import integers_by_axis


@st.composite
def convolutions(draw):
    """A convolution of any geometry and an input for it."""
    axes = draw(st.sampled_from([1, 2]))
    ints = integers_by_axis(draw, axes)
    groups = draw(st.integers(1, 3))
    sizes = ints(5, 7)
    padding = draw(st.sampled_from(['valid', 'same', 'given']))
    module = (nn.Conv1d, nn.Conv2d)[axes - 1](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        ints(1, 3),
        # torch supports `same` for a stride of 1 alone.
        stride=1 if padding == 'same' else ints(1, 3),
        padding=ints(0, 2) if padding == 'given' else padding,
        dilation=ints(1, 2),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(
            st.sampled_from(['zeros', 'circular', 'reflect', 'replicate'])
        ),
        dtype=torch.float64,
    )
    n = draw(st.integers(1, 3))
    return module, double(n, module.in_channels, *sizes, seed=draw(st.integers(0, 99)))


@st.composite
def transposed_convolutions(draw):
    """A transposed convolution of any geometry and an input for it."""
    axes = draw(st.sampled_from([1, 2]))
    ints = integers_by_axis(draw, axes)
    groups = draw(st.integers(1, 3))
    stride, dilation = ints(1, 3), ints(1, 2)
    module = (nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        ints(1, 3),
        stride=stride,
        padding=ints(0, 2),
        # torch asks for less than the larger of stride and dilation.
        output_padding=tuple(
            draw(st.integers(0, max(pair) - 1))
            for pair in zip(stride, dilation, strict=True)
        ),
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        dtype=torch.float64,
    )
    n, sizes = draw(st.integers(1, 3)), ints(5, 6)
    return module, double(n, module.in_channels, *sizes, seed=draw(st.integers(0, 99)))


def _weight_matrix(layer):
    return layer.to_matrix([p.detach() for p in layer.parameters])


def _with_ones(layer, rows):
    """Appends the bias's constant input."""
    if layer.bias is None:
        return rows
    return torch.cat([rows, torch.ones_like(rows[..., :1])], -1)


def _assert_rows_reproduce(layer, module, inputs):
    """The rows times the weight matrix are the output; products its gradient."""
    outputs = module(inputs)
    rows, multiplicity = layer.input_rows(inputs, False, outputs.shape)
    rows = _with_ones(layer, rows)
    assert multiplicity == 1
    expected = layer.gradient_rows(outputs.detach())
    actual = torch.einsum('...gi,goi->...go', rows, _weight_matrix(layer))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)

    cotangent = torch.sin(torch.arange(outputs.numel()).double()).view(outputs.shape)
    gradients = torch.autograd.grad(outputs, layer.parameters, cotangent)
    from_rows = torch.einsum(
        'ngo,ngi->goi',
        layer.gradient_rows(cotangent).flatten(0, -3),
        rows.flatten(0, -3),
    )
    expected = layer.to_matrix(gradients)
    torch.testing.assert_close(from_rows, expected, rtol=1e-10, atol=1e-12)


@hypothesis.settings(max_examples=150)
@hypothesis.given(convolutions())
def test_convolution_rows(drawn):
    module, inputs = drawn
    _assert_rows_reproduce(ConvLayer('conv', module), module, inputs)


@hypothesis.settings(max_examples=100)
@hypothesis.given(transposed_convolutions())
def test_transposed_convolution_rows(drawn):
    module, inputs = drawn
    _assert_rows_reproduce(ConvTransposeLayer('conv', module), module, inputs)


def _assert_sums_are_of_patches(layer, inputs, output_shape):
    rows, _ = layer.input_rows(inputs, False, output_shape)
    summed, multiplicity = layer.input_rows(inputs, True, output_shape)
    assert multiplicity == rows.shape[1]
    torch.testing.assert_close(summed, rows.sum(1, keepdim=True))


@hypothesis.settings(max_examples=150)
@hypothesis.given(convolutions())
def test_summed_patches(drawn):
    module, inputs = drawn
    layer = ConvLayer('conv', module)
    _assert_sums_are_of_patches(layer, inputs, module(inputs).shape)


@hypothesis.settings(max_examples=100)
@hypothesis.given(transposed_convolutions())
def test_summed_patches_of_transposed_convolutions(drawn):
    module, inputs = drawn
    layer = ConvTransposeLayer('conv', module)
    _assert_sums_are_of_patches(layer, inputs, module(inputs).shape)


def test_transposed_convolution_called_with_an_output_size():
    module = nn.ConvTranspose2d(2, 4, 3, stride=(3, 2), dtype=torch.float64)
    layer, inputs = ConvTransposeLayer('conv', module), double(2, 2, 4, 3)

    def enlarged(inputs):
        return module(inputs, output_size=(14, 8))

    assert enlarged(inputs).shape != module(inputs).shape
    _assert_rows_reproduce(layer, enlarged, inputs)
    _assert_sums_are_of_patches(layer, inputs, enlarged(inputs).shape)


@pytest.mark.parametrize(
    ('kind', 'module'),
    [
        (ConvLayer, nn.Conv1d(2, 4, 3)),
        (ConvLayer, nn.Conv2d(2, 4, 3)),
        (ConvTransposeLayer, nn.ConvTranspose1d(2, 4, 3)),
        (ConvTransposeLayer, nn.ConvTranspose2d(2, 4, 3)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else '',
)
def test_convolution_of_an_input_without_batch_axis(kind, module):
    module = module.double()
    layer = kind('conv', module)
    inputs = double(2, *[5] * (module.weight.dim() - 2))
    _assert_rows_reproduce(layer, module, inputs)
    _assert_sums_are_of_patches(layer, inputs, module(inputs).shape)


@pytest.mark.parametrize(
    ('kind', 'module'),
    [
        (ConvLayer, nn.Conv2d(4, 6, 3, groups=2)),
        (ConvTransposeLayer, nn.ConvTranspose2d(4, 6, 3, groups=2)),
    ],
    ids=['plain', 'transposed'],
)
def test_convolution_of_no_image(kind, module):
    """One of several processes may get no example of a batch."""
    layer, inputs = kind('conv', module), torch.zeros(0, 4, 5, 5)
    outputs = module(inputs)
    n_positions = outputs.shape[2:].numel()
    rows, _ = layer.input_rows(inputs, False, outputs.shape)
    assert rows.shape == (0, n_positions, 2, 18)
    summed, multiplicity = layer.input_rows(inputs, True, outputs.shape)
    assert summed.shape == (0, 1, 2, 18)
    assert multiplicity == n_positions
    assert layer.gradient_rows(outputs).shape == (0, n_positions, 2, 3)


@hypothesis.given(st.lists(st.integers(1, 3), max_size=4), st.booleans())
def test_linear_rows(leading, bias):
    module = nn.Linear(5, 4, bias=bias, dtype=torch.float64)
    inputs = double(*leading, 5)
    layer = LinearLayer('linear', module)
    rows, multiplicity = layer.input_rows(inputs, True, (*leading, 4))
    assert multiplicity == 1
    assert rows.shape == (*leading, 1, 5)
    if leading:
        _assert_rows_reproduce(layer, module, inputs)


@pytest.mark.parametrize(
    'layer',
    [
        LinearLayer('l', nn.Linear(5, 4)),
        LinearLayer('l', nn.Linear(5, 4, bias=False)),
        ConvLayer('l', nn.Conv1d(4, 6, 3, groups=2)),
        ConvLayer('l', nn.Conv2d(4, 6, (3, 2), bias=False)),
        ConvLayer('l', nn.Conv2d(6, 6, 3, groups=6)),
        ConvTransposeLayer('l', nn.ConvTranspose1d(4, 6, 3, groups=2)),
        ConvTransposeLayer('l', nn.ConvTranspose2d(4, 6, (3, 2), bias=False)),
        ConvTransposeLayer('l', nn.ConvTranspose2d(6, 6, 3, groups=6)),
    ],
    ids=[
        'linear',
        'linear, no bias',
        'grouped',
        'no bias',
        'depthwise',
        'transposed, grouped',
        'transposed, no bias',
        'transposed, depthwise',
    ],
)
def test_matrix_round_trip(layer):
    gradients = [torch.randn(p.shape) for p in layer.parameters]
    matrix = layer.to_matrix(gradients)
    assert matrix.shape == (layer.groups, layer.output_dim, layer.input_dim)
    for back, gradient in zip(layer.from_matrix(matrix), gradients, strict=True):
        torch.testing.assert_close(back, gradient, rtol=0, atol=0)


class OwnForward(nn.Linear):
    """Not what its base class computes."""

    def forward(self, x):
        return super().forward(x).square()


class PlainSubclass(nn.Linear):
    """Computes what its base class does."""


def _table(model, max_factor_dimension=1024):
    """The layers by name, and the reason for each parameter."""
    layers, assignments = assign_parameters(model, max_factor_dimension)
    names = [a.parameter_name for a in assignments]
    assert names == [name for name, _ in model.named_parameters()]
    in_layers = [name for layer in layers for name in layer.parameter_names]
    assert len(in_layers) == len(set(in_layers))
    assert set(in_layers) == {a.parameter_name for a in assignments if a.is_kfac}
    return (
        {layer.name: layer for layer in layers},
        {a.parameter_name: a.reason for a in assignments},
    )


class TestAssignment:
    def test_each_parameter_is_named_once(self):
        model = nn.ModuleDict(
            {
                'conv': nn.Conv2d(3, 4, 3),
                'norm': nn.BatchNorm2d(4),
                'linear': nn.Linear(4, 5),
                'embedding': nn.Embedding(7, 5),
                'lstm': nn.LSTM(5, 3),
                'attention': nn.MultiheadAttention(4, 2),
                'transposed': nn.ConvTranspose2d(4, 4, 2),
                'subclass': PlainSubclass(4, 5),
            }
        )
        layers, reasons = _table(model)
        assert set(layers) == {'conv', 'linear', 'transposed', 'subclass'}
        assert reasons['conv.weight'] == 'Conv2d conv'
        assert reasons['transposed.bias'] == 'ConvTranspose2d transposed'
        assert reasons['subclass.bias'] == 'PlainSubclass subclass'

    @pytest.mark.parametrize(
        ('module', 'kind'),
        [
            (nn.LayerNorm(4), 'LayerNorm'),
            (nn.BatchNorm1d(4), 'BatchNorm1d'),
            (nn.Embedding(5, 4), 'Embedding'),
            (nn.LSTM(4, 4), 'LSTM'),
            (nn.Conv3d(4, 4, 3), 'Conv3d'),
            (nn.ConvTranspose3d(4, 4, 3), 'ConvTranspose3d'),
            (OwnForward(4, 4), 'OwnForward'),
            (nn.Bilinear(4, 4, 4), 'Bilinear'),
        ],
        ids=lambda value: value if isinstance(value, str) else '',
    )
    def test_other_kinds_fall_back(self, module, kind):
        layers, reasons = _table(nn.Sequential(module))
        assert not layers
        assert set(reasons.values()) == {f'{kind} has no Kronecker factors'}

    def test_attention_uses_the_weights_of_its_output_itself(self):
        """Its `out_proj` is never called, so nothing could be captured."""
        layers, reasons = _table(nn.MultiheadAttention(4, 2))
        assert not layers
        assert 'MultiheadAttention' in reasons['in_proj_weight']
        assert 'no Kronecker factors' in reasons['out_proj.weight']

    @pytest.mark.parametrize(
        'wrap',
        [
            nn.utils.parametrizations.weight_norm,
            nn.utils.parametrizations.spectral_norm,
            nn.utils.parametrizations.orthogonal,
            lambda module: prune.l1_unstructured(module, 'weight', 2),
        ],
        ids=['weight norm', 'spectral norm', 'orthogonal', 'pruned'],
    )
    def test_computed_weights_fall_back(self, wrap):
        layers, reasons = _table(nn.ModuleDict({'x': wrap(nn.Linear(4, 4))}))
        assert not layers
        assert reasons['x.bias'] == 'the weight of x is frozen or computed from others'

    def test_computed_bias_falls_back(self):
        module = nn.Linear(4, 4)
        nn.utils.parametrize.register_parametrization(module, 'bias', nn.Softplus())
        layers, reasons = _table(nn.ModuleDict({'x': module}))
        assert not layers
        assert 'the bias of x is computed' in reasons['x.weight']

    def test_parameter_of_the_model_itself(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(()))

        layers, reasons = _table(Scaled())
        assert not layers
        assert reasons == {'scale': 'Scaled has no Kronecker factors'}

    def test_frozen_layer(self):
        layers, reasons = _table(nn.Sequential(nn.Linear(4, 4).requires_grad_(False)))
        assert not layers
        assert set(reasons.values()) == {'frozen'}

    def test_frozen_weight(self):
        module = nn.Linear(4, 4)
        module.weight.requires_grad_(False)
        layers, reasons = _table(nn.Sequential(module))
        assert not layers
        assert 'frozen' in reasons['0.bias']

    def test_frozen_bias(self):
        """The weight is trained as that of a layer without a bias."""
        module = nn.Linear(4, 3)
        module.bias.requires_grad_(False)
        layers, reasons = _table(nn.Sequential(module))
        assert layers['0'].parameter_names == ['0.weight']
        assert layers['0'].input_dim == 4
        assert reasons == {'0.weight': 'Linear 0', '0.bias': 'frozen'}

    @pytest.mark.parametrize(
        ('module', 'largest'),
        [
            (nn.Linear(8, 3), 9),
            (nn.Linear(3, 8), 8),
            (nn.Conv2d(4, 2, 3, groups=2, bias=False), 18),
            (nn.ConvTranspose2d(4, 2, 3, groups=2, bias=False), 18),
            (nn.ConvTranspose1d(2, 8, 1), 8),
        ],
    )
    def test_too_large_factors_fall_back(self, module, largest):
        assert _table(nn.Sequential(module), largest)[0]
        layers, reasons = _table(nn.Sequential(module), largest - 1)
        assert not layers
        for reason in reasons.values():
            assert reason == (
                f'a Kronecker factor of dimension {largest} exceeds '
                f'max_factor_dimension {largest - 1}'
            )


class TestSharing:
    def test_one_module_under_two_names(self):
        module = nn.Linear(4, 4)
        layers, _ = _table(nn.ModuleDict({'first': module, 'second': module}))
        assert [layer.modules for layer in layers.values()] == [[module]]

    @pytest.mark.parametrize('bias', [True, False])
    def test_two_modules_with_the_same_parameters(self, bias):
        first, second = nn.Linear(4, 4, bias=bias), nn.Linear(4, 4, bias=bias)
        second.weight, second.bias = first.weight, first.bias
        layers, _ = _table(nn.ModuleDict({'first': first, 'second': second}))
        assert list(layers) == ['first']
        assert layers['first'].modules == [first, second]

    @pytest.mark.parametrize(
        ('kind', 'changes'),
        [
            (nn.Conv2d, {'dilation': 2, 'padding': 2}),
            (nn.Conv1d, {'padding': 1, 'padding_mode': 'circular'}),
            (nn.ConvTranspose2d, {'stride': 2, 'output_padding': 1}),
        ],
    )
    def test_same_parameters_with_another_geometry(self, kind, changes):
        """One set of rows does not describe both."""
        first, second = kind(4, 4, 3, padding=1), kind(4, 4, 3, **changes)
        second.weight, second.bias = first.weight, first.bias
        layers, reasons = _table(nn.ModuleDict({'first': first, 'second': second}))
        assert not layers
        assert reasons['first.weight'] == (
            f'shared with second ({kind.__name__} of another geometry)'
        )

    def test_same_weight_with_another_bias(self):
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        layers, reasons = _table(nn.ModuleDict({'first': first, 'second': second}))
        assert not layers
        assert reasons['first.weight'] == 'shared with second (Linear)'
        assert reasons['second.bias'].startswith('shared with')

    def test_same_bias_with_another_weight(self):
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.bias = first.bias
        layers, reasons = _table(nn.ModuleDict({'first': first, 'second': second}))
        assert not layers
        assert reasons['second.weight'].startswith('shared with first')

    @pytest.mark.parametrize('order', [('embedding', 'head'), ('head', 'embedding')])
    def test_embedding_tied_to_a_head(self, order):
        modules = {'embedding': nn.Embedding(5, 4), 'head': nn.Linear(4, 5)}
        modules['head'].weight = modules['embedding'].weight
        layers, reasons = _table(nn.ModuleDict({name: modules[name] for name in order}))
        assert not layers
        assert reasons['head.bias'] == 'shared with embedding (Embedding)'


def test_table_names_everything():
    model = nn.ModuleDict({'linear': nn.Linear(4, 5), 'norm': nn.LayerNorm(5)})
    _, assignments = assign_parameters(model, 1024)
    lines = format_assignments(assignments).splitlines()
    cells = [re.split(' {2,}', line) for line in lines]
    assert cells == [
        ['parameter', 'shape', 'trained by', 'why'],
        ['linear.weight', '5x4', 'K-FAC', 'Linear linear'],
        ['linear.bias', '5', 'K-FAC', 'Linear linear'],
        ['norm.weight', '5', 'NAdamW', 'LayerNorm has no Kronecker factors'],
        ['norm.bias', '5', 'NAdamW', 'LayerNorm has no Kronecker factors'],
    ]
