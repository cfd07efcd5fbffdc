"""Rows and matrices of each kind of layer, and who trains which parameter."""

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from submission.jax.convolutions import ConvLayer, ConvTransposeLayer
from submission.jax.layers import LinearLayer
from submission.jax.naming import flatten, unflatten
from tests.submission.strategies import integers_by_axis

from .curvature import double, find_layers, init

pytestmark = pytest.mark.usefixtures('double_precision')

CLOSE = {'rtol': 1e-10, 'atol': 1e-12}


def _layer_of(module, params, inputs):
    layers, assignments = find_layers(module, params, inputs)
    assert layers, assignments
    return layers['']


def _parameters(layer, params):
    return [params[name] for name in layer.parameter_names]


def _with_ones(layer, rows):
    """Appends the bias's constant input."""
    if not layer.has_bias:
        return rows
    return jnp.concatenate([rows, jnp.ones_like(rows[..., :1])], -1)


def _assert_rows_reproduce(module, inputs, kind):
    """The rows times the weight matrix are the output; products its gradient."""
    params = init(module, inputs)
    layer = _layer_of(module, params, inputs)
    assert isinstance(layer, kind)
    multiplicities = []

    # To compile it as a whole takes less time than one operation after the other.
    @jax.jit
    def run(params, inputs):
        rows, multiplicity = layer.input_rows(inputs, sum_positions=False)
        multiplicities.append(multiplicity)
        matrix = layer.to_matrix(_parameters(layer, params))
        outputs, pull_back = jax.vjp(
            lambda params: module.apply({'params': params}, inputs), params
        )
        cotangent = jnp.sin(jnp.arange(outputs.size)).reshape(outputs.shape)
        (gradients,) = pull_back(cotangent)
        return (
            (_with_ones(layer, rows), matrix),
            (layer.gradient_rows(outputs), layer.gradient_rows(cotangent)),
            layer.to_matrix(_parameters(layer, gradients)),
            layer.from_matrix(matrix),
        )

    (rows, matrix), (output_rows, gradient_rows), gradient, back = run(params, inputs)
    assert multiplicities == [1]
    assert matrix.shape == (layer.groups, layer.output_dim, layer.input_dim)
    np.testing.assert_allclose(
        np.einsum('...gi,goi->...go', rows, matrix), output_rows, **CLOSE
    )
    assert gradient_rows.shape[:-2] == rows.shape[:-2]
    np.testing.assert_allclose(
        np.einsum(
            'ngo,ngi->goi',
            gradient_rows.reshape(-1, *gradient_rows.shape[-2:]),
            rows.reshape(-1, *rows.shape[-2:]),
        ),
        gradient,
        **CLOSE,
    )
    for found, given in zip(back, _parameters(layer, params), strict=True):
        np.testing.assert_array_equal(found, given)
    return layer


@pytest.mark.parametrize('leading', [(3,), (3, 2), (3, 1, 2)])
@pytest.mark.parametrize('bias', [True, False])
def test_dense(leading, bias):
    module = nn.Dense(4, use_bias=bias)
    layer = _assert_rows_reproduce(module, double(*leading, 5), LinearLayer)
    assert (layer.input_dim, layer.output_dim) == (5 + bias, 4)
    rows, multiplicity = layer.input_rows(jnp.zeros((*leading, 5)), sum_positions=True)
    assert rows.shape == (*leading, 1, 5)
    assert multiplicity == 1


DENSE_GENERAL = {
    'heads': ({'features': (2, 3)}, (4, 3, 5)),
    'joined heads': ({'features': 4, 'axis': (-2, -1)}, (4, 3, 2, 5)),
    'both': ({'features': (2, 3), 'axis': (-1, -2)}, (4, 2, 5)),
    'axis in the middle': ({'features': 3, 'axis': 1}, (4, 2, 5)),
    'batch axis': ({'features': (2, 2), 'batch_dims': 0}, (3, 4, 5)),
    'batch axes': (
        {'features': 2, 'axis': (-2, -1), 'batch_dims': (0, 1)},
        (2, 3, 4, 2, 3),
    ),
    'axes from the front': ({'features': 3, 'axis': (3, 1)}, (4, 2, 3, 5)),
    'from both ends': ({'features': 3, 'axis': (1, -1)}, (4, 2, 3, 5)),
    'batch and front': (
        {'features': 3, 'axis': 2, 'batch_dims': (1, 0)},
        (2, 3, 5, 4),
    ),
    'no bias': ({'features': (2, 3), 'use_bias': False}, (4, 3, 5)),
}


@pytest.mark.parametrize(
    ('geometry', 'shape'), DENSE_GENERAL.values(), ids=DENSE_GENERAL
)
def test_dense_general(geometry, shape):
    _assert_rows_reproduce(nn.DenseGeneral(**geometry), double(*shape), LinearLayer)


EINSUMS = {
    'dense': ('abc,cd->abd', (5, 4), (3, 2, 5), 1),
    'ellipsis': ('...c,cd->...d', (5, 4), (3, 2, 5), 1),
    'ellipsis in the middle': ('a...c,cde->ad...e', (5, 2, 4), (3, 2, 5), 1),
    'groups': ('...gc,gcd->...gd', (2, 5, 4), (3, 2, 2, 5), 2),
    'groups first': ('gnc,gdc->ngd', (2, 4, 5), (2, 3, 5), 2),
    'positions swapped': ('abc,cd->bad', (5, 4), (3, 2, 5), 1),
    'two contracted': ('nhk,dhk->nd', (4, 2, 3), (5, 2, 3), 1),
}


@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
@pytest.mark.parametrize(
    ('subscripts', 'kernel', 'shape', 'groups'), EINSUMS.values(), ids=EINSUMS
)
def test_einsum(subscripts, kernel, shape, groups, bias):
    module = nn.Einsum(kernel, subscripts, use_bias=bias)
    layer = _assert_rows_reproduce(module, double(*shape), LinearLayer)
    assert layer.groups == groups


CONVOLUTIONS = {
    '1-D': ({'kernel_size': (3,)}, (2, 7, 2)),
    '1-D, int': ({'kernel_size': 3, 'strides': 2, 'padding': 1}, (2, 7, 2)),
    'stride': ({'kernel_size': (3, 2), 'strides': (2, 1)}, (2, 6, 5, 2)),
    'dilation': ({'kernel_size': (3, 2), 'kernel_dilation': (1, 2)}, (2, 6, 5, 2)),
    'groups': ({'kernel_size': (2, 2), 'feature_group_count': 2}, (2, 4, 5, 2)),
    'depthwise': ({'kernel_size': (2,), 'feature_group_count': 4}, (2, 4, 4)),
    'valid': ({'kernel_size': (3, 2), 'padding': 'VALID', 'strides': 2}, (2, 6, 5, 2)),
    'circular': ({'kernel_size': (3, 2), 'padding': 'CIRCULAR'}, (2, 6, 5, 2)),
    'reflect': ({'kernel_size': (4, 3), 'padding': 'REFLECT'}, (2, 6, 5, 2)),
    'causal': (
        {'kernel_size': (3,), 'padding': 'CAUSAL', 'kernel_dilation': 2},
        (2, 7, 2),
    ),
    'explicit': ({'kernel_size': (3, 2), 'padding': ((1, 0), (2, 1))}, (2, 6, 5, 2)),
    'explicit, mixed': ({'kernel_size': (3, 2), 'padding': (1, (0, 2))}, (2, 6, 5, 2)),
    'no bias': ({'kernel_size': (2, 2), 'use_bias': False}, (2, 4, 5, 2)),
    'several batch axes': ({'kernel_size': (2, 2)}, (2, 3, 4, 5, 2)),
    'all': (
        {
            'kernel_size': (3, 2),
            'strides': (2, 1),
            'kernel_dilation': (1, 2),
            'feature_group_count': 2,
            'padding': 'SAME',
        },
        (2, 7, 5, 2),
    ),
}


TRANSPOSED_CONVOLUTIONS = {
    '1-D': ({'kernel_size': (3,)}, (2, 5, 2)),
    '1-D, int': ({'kernel_size': 3, 'strides': 2, 'padding': 1}, (2, 5, 2)),
    'as in a U-Net': ({'kernel_size': (2, 2), 'strides': (2, 2)}, (2, 3, 4, 2)),
    'stride': ({'kernel_size': (3, 2), 'strides': (2, 3)}, (2, 4, 3, 2)),
    'dilation': ({'kernel_size': (3, 2), 'kernel_dilation': (1, 2)}, (2, 4, 3, 2)),
    'valid': ({'kernel_size': (3, 2), 'padding': 'VALID', 'strides': 3}, (2, 4, 3, 2)),
    'circular': ({'kernel_size': (4, 3), 'padding': 'CIRCULAR'}, (2, 4, 3, 2)),
    'circular, stride': (
        {'kernel_size': (4, 3), 'padding': 'CIRCULAR', 'strides': (3, 2)},
        (2, 2, 3, 2),
    ),
    'circular, more than a period': (
        {'kernel_size': (3,), 'padding': 'CIRCULAR', 'kernel_dilation': 4},
        (2, 3, 2),
    ),
    'explicit': ({'kernel_size': (3, 2), 'padding': ((1, 0), (2, 1))}, (2, 4, 3, 2)),
    'explicit, mixed': ({'kernel_size': (3, 2), 'padding': (1, (0, 2))}, (2, 4, 3, 2)),
    'cropped': ({'kernel_size': (3,), 'padding': ((-2, 0),), 'strides': 3}, (2, 4, 2)),
    'no bias': ({'kernel_size': (2, 2), 'use_bias': False}, (2, 4, 3, 2)),
    'several batch axes': ({'kernel_size': (2, 2), 'strides': 2}, (2, 3, 2, 3, 2)),
    'all': (
        {
            'kernel_size': (3, 2),
            'strides': (2, 1),
            'kernel_dilation': (1, 2),
            'padding': 'SAME',
        },
        (2, 4, 5, 2),
    ),
}


def _assert_patches_reproduce(module, inputs):
    """The patches times the weight matrix are the output; so are their sums."""
    params = init(module, inputs)
    layer = _layer_of(module, params, inputs)
    multiplicities = []

    # To compile it as a whole takes less time than one operation after the other.
    @jax.jit
    def run(params, inputs):
        rows, one = layer.input_rows(inputs, sum_positions=False)
        summed, many = layer.input_rows(inputs, sum_positions=True)
        multiplicities.append((one, many // rows.shape[1]))
        matrix = layer.to_matrix(_parameters(layer, params))
        products = jnp.einsum('...gi,goi->...go', _with_ones(layer, rows), matrix)
        outputs = layer.gradient_rows(module.apply({'params': params}, inputs))
        return (products, summed), (outputs, rows.sum(1, keepdims=True))

    for found, expected in zip(*run(params, inputs), strict=True):
        np.testing.assert_allclose(found, expected, **CLOSE)
    assert multiplicities == [(1, 1)]


@pytest.mark.parametrize(('geometry', 'shape'), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(geometry, shape):
    _assert_patches_reproduce(nn.Conv(4, **geometry), double(*shape))


@pytest.mark.parametrize('name', ['1-D', 'all', 'several batch axes'])
def test_gradient_of_convolution(name):
    geometry, shape = CONVOLUTIONS[name]
    _assert_rows_reproduce(nn.Conv(4, **geometry), double(*shape), ConvLayer)


@pytest.mark.parametrize(
    ('geometry', 'shape'),
    TRANSPOSED_CONVOLUTIONS.values(),
    ids=TRANSPOSED_CONVOLUTIONS,
)
def test_transposed_convolution(geometry, shape):
    _assert_patches_reproduce(nn.ConvTranspose(3, **geometry), double(*shape))


@pytest.mark.parametrize(
    'name', ['as in a U-Net', 'valid', 'circular', 'circular, stride', 'explicit']
)
def test_transposed_convolution_with_transposed_kernel(name):
    geometry, shape = TRANSPOSED_CONVOLUTIONS[name]
    module = nn.ConvTranspose(3, transpose_kernel=True, **geometry)
    _assert_patches_reproduce(module, double(*shape))


@pytest.mark.parametrize(
    ('name', 'flips'),
    [('all', False), ('circular, stride', True), ('several batch axes', True)],
)
def test_gradient_of_transposed_convolution(name, flips):
    geometry, shape = TRANSPOSED_CONVOLUTIONS[name]
    module = nn.ConvTranspose(3, transpose_kernel=flips, **geometry)
    _assert_rows_reproduce(module, double(*shape), ConvTransposeLayer)


@pytest.mark.parametrize('kind', [nn.Conv, nn.ConvTranspose])
def test_convolution_of_an_input_without_batch_axis(kind):
    _assert_patches_reproduce(kind(4, (3,)), double(5, 2))


@st.composite
def convolutions(draw):
    """A convolution of any geometry and an input for it."""
    axes = draw(st.sampled_from([1, 2]))
    ints = integers_by_axis(draw, axes)
    groups = draw(st.integers(1, 2))
    module = nn.Conv(
        groups * draw(st.integers(1, 2)),
        ints(1, 3),
        strides=ints(1, 3),
        padding=draw(
            st.sampled_from(
                [
                    'VALID',
                    'SAME',
                    'SAME_LOWER',
                    'CIRCULAR',
                    'REFLECT',
                    2,
                    [(1, 2)] * axes,
                ]
                + ['CAUSAL'] * (axes == 1)
            )
        ),
        kernel_dilation=ints(1, 2),
        feature_group_count=groups,
        use_bias=draw(st.booleans()),
    )
    channels = groups * draw(st.integers(1, 2))
    return module, double(2, *ints(5, 7), channels, seed=draw(st.integers(0, 99)))


@hypothesis.settings(max_examples=10)
@hypothesis.given(convolutions())
def test_convolution_of_any_geometry(drawn):
    _assert_patches_reproduce(*drawn)


@st.composite
def transposed_convolutions(draw):
    """A transposed convolution of any geometry and an input for it."""
    axes = draw(st.sampled_from([1, 2]))
    ints = integers_by_axis(draw, axes)
    paddings = ['VALID', 'SAME', 'CIRCULAR', 2, [(1, 2)] * axes, [(3, -1)] * axes]
    module = nn.ConvTranspose(
        draw(st.integers(1, 3)),
        ints(1, 4),
        strides=ints(1, 3),
        padding=draw(st.sampled_from(paddings)),
        kernel_dilation=ints(1, 2),
        transpose_kernel=draw(st.booleans()),
        use_bias=draw(st.booleans()),
    )
    channels = draw(st.integers(1, 2))
    # Large enough that some output is left without padding.
    return module, double(2, *ints(7, 8), channels, seed=draw(st.integers(0, 99)))


@hypothesis.settings(max_examples=10)
@hypothesis.given(transposed_convolutions())
def test_transposed_convolution_of_any_geometry(drawn):
    _assert_patches_reproduce(*drawn)


class OwnCall(nn.Dense):
    """Not what its base class computes."""

    def __call__(self, x):
        return super().__call__(x) ** 2


class OwnTransposed(nn.ConvTranspose):
    """Not what its base class computes either."""

    def __call__(self, x):
        return super().__call__(x) ** 2


class PlainSubclass(nn.Dense):
    """Computes what its base class does."""


class Stacked(nn.Module):
    """The parameters of all steps in one array."""

    length: int = 2
    axis: int | None = 0

    @nn.compact
    def __call__(self, x):
        shared = self.axis is None
        scanned = nn.scan(
            ScanStep,
            variable_axes={} if shared else {'params': self.axis},
            variable_broadcast='params' if shared else False,
            split_rngs={'params': not shared},
            length=self.length,
        )
        return scanned(name='steps')(x, None)[0]


class ScanStep(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return nn.Dense(carry.shape[-1], name='inner')(carry), None


class Mapped(nn.Module):
    """Hides the batch from its layer."""

    axis: int | None = None

    @nn.compact
    def __call__(self, x):
        mapped = nn.vmap(
            OneDense,
            variable_axes={'params': self.axis},
            split_rngs={'params': self.axis is not None},
        )
        return mapped(name='block')(x)


class OneDense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name='inner')(x)


class MappedLoop(nn.Module):
    """Inside the loop the mapped values are not seen as such."""

    @nn.compact
    def __call__(self, x):
        mapped = nn.vmap(
            Stacked, variable_axes={'params': None}, split_rngs={'params': False}
        )
        return mapped(axis=None, name='block')(x)


class Normalised(nn.Module):
    weight: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(3, name='layer')
        if self.weight:
            return nn.WeightNorm(layer)(x)
        return nn.SpectralNorm(layer)(x, update_stats=False)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.RNN(nn.OptimizedLSTMCell(3), name='rnn')(x)


class Tied(nn.Module):
    """An embedding whose matrix is the head's too."""

    @nn.compact
    def __call__(self, x):
        embedding = nn.Embed(5, 4, name='embedding')
        return embedding.attend(nn.Dense(4, name='layer')(embedding(x)))


class SharedScope(nn.Module):
    """A layer and what is around it under one path."""

    def setup(self):
        self.layer = nn.Dense(3)
        nn.share_scope(self, self.layer)
        self.gain = self.param('gain', nn.initializers.ones, ())

    def __call__(self, x):
        return self.gain * self.layer(x)


class CompiledTwice(nn.Module):
    @nn.compact
    def __call__(self, x):
        compiled = nn.jit(OneDense)
        return compiled(name='two')(compiled(name='one')(x))


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param('scale', nn.initializers.ones, ())


def _table(module, inputs, **options):
    """The layers by name, and the reason for each parameter."""
    params = init(module, inputs)
    layers, assignments = find_layers(module, params, inputs, **options)
    names = [a.parameter_name for a in assignments]
    assert len(names) == len(set(names)) == len(jax.tree.leaves(params))
    in_layers = [name for layer in layers.values() for name in layer.parameter_names]
    assert len(in_layers) == len(set(in_layers))
    assert set(in_layers) == {a.parameter_name for a in assignments if a.is_kfac}
    return layers, {a.parameter_name: a.reason for a in assignments}


FALLBACKS = {
    '3-D': (nn.Conv(2, (2, 2, 2)), (1, 3, 3, 3, 2), 'it convolves over 3 axes'),
    'masked': (
        nn.Conv(2, (2,), mask=np.ones((2, 2, 2))),
        (1, 3, 2),
        'its kernel is masked',
    ),
    'input dilation': (
        nn.Conv(2, (2,), input_dilation=2, padding=1),
        (1, 3, 2),
        'it dilates its input',
    ),
    'transposed, 3-D': (
        nn.ConvTranspose(2, (2, 2, 2)),
        (1, 3, 3, 3, 2),
        'it convolves over 3 axes',
    ),
    'transposed, masked': (
        nn.ConvTranspose(2, (2,), mask=np.ones((2, 2, 2))),
        (1, 3, 2),
        'its kernel is masked',
    ),
    'transposed, other padding': (
        nn.ConvTranspose(2, (2,), padding='SAME_LOWER'),
        (1, 3, 2),
        'its padding is SAME_LOWER',
    ),
    'transposed, own call': (
        OwnTransposed(2, (2,)),
        (1, 3, 2),
        'OwnTransposed has no Kronecker factors',
    ),
    'local': (
        nn.ConvLocal(2, (2,)),
        (1, 3, 2),
        'ConvLocal has no Kronecker factors',
    ),
    'norm': (nn.LayerNorm(), (2, 3), 'LayerNorm has no Kronecker factors'),
    'own call': (OwnCall(3), (2, 3), 'OwnCall has no Kronecker factors'),
    'own parameter': (Scaled(), (2, 3), 'Scaled has no Kronecker factors'),
    'ellipsis in the kernel': (
        nn.Einsum((3, 4), '...c,...d->...cd', use_bias=False),
        (3, 2),
        'the kernel in its einsum has an ellipsis',
    ),
    'sum over the kernel alone': (
        nn.Einsum((3, 4, 2), 'nc,cde->nd', use_bias=False),
        (2, 3),
        'its einsum sums over an axis of one operand',
    ),
    'sum over the input alone': (
        nn.Einsum((3, 4), 'nrc,cd->nd', use_bias=False),
        (2, 5, 3),
        'its einsum sums over an axis of one operand',
    ),
    'stacked by scan': (Stacked(), (2, 3), 'are stacked'),
    'stacked by vmap': (Mapped(axis=0), (2, 3), 'are stacked'),
    'spectral normalisation': (
        Normalised(),
        (2, 3),
        'SpectralNorm computes the kernel of layer',
    ),
    'mapped': (Mapped(), (2, 3), 'runs under a vmap'),
    'mapped further out': (MappedLoop(), (2, 3), 'runs under a vmap'),
}


@pytest.mark.parametrize(
    ('module', 'shape', 'reason'), FALLBACKS.values(), ids=FALLBACKS
)
def test_fallbacks(module, shape, reason):
    layers, reasons = _table(module, double(*shape))
    assert not layers
    for text in reasons.values():
        assert reason in text


class Everything(nn.Module):
    """One of each kind, and a layer whose call is not reached."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3,), name='conv')(x)
        x = nn.LayerNorm(name='norm')(x)
        x = nn.RNN(nn.OptimizedLSTMCell(4), name='rnn')(x)
        x = nn.MultiHeadDotProductAttention(2, name='attention')(x, x)
        x = PlainSubclass(4, name='subclass')(x)
        x = nn.ConvTranspose(4, (2,), name='transposed')(x)
        return Stacked(name='stack')(x) + Stacked(axis=None, name='loop')(x)


class TestAssignment:
    def test_each_parameter_is_named_once(self):
        layers, reasons = _table(Everything(), double(2, 5, 3))
        heads = {f'attention/{name}' for name in ('query', 'key', 'value', 'out')}
        once = {'conv', 'subclass', 'transposed', 'loop/steps/inner'}
        assert set(layers) == heads | once
        assert reasons['conv/kernel'] == 'Conv conv'
        assert reasons['attention/out/bias'] == 'DenseGeneral attention/out'
        assert reasons['subclass/bias'] == 'PlainSubclass subclass'
        assert reasons['transposed/kernel'] == 'ConvTranspose transposed'

    def test_embedding_tied_to_a_head(self):
        layers, reasons = _table(Tied(), np.array([[1, 2, 3]]))
        assert set(layers) == {'layer'}
        assert reasons['embedding/embedding'] == 'Embed has no Kronecker factors'

    def test_recurrent_cell(self):
        layers, reasons = _table(Recurrent(), double(2, 5, 3))
        assert not layers
        assert 'OptimizedLSTMCell_0/hf/kernel' in reasons

    def test_weight_normalisation(self):
        layers, reasons = _table(Normalised(weight=True), double(2, 3))
        assert not layers
        # The module has a parameter of its own beside the layer's two.
        assert sorted(reasons) == [
            'WeightNorm_0/layer/kernel/scale',
            'layer/bias',
            'layer/kernel',
        ]
        assert 'WeightNorm computes the kernel of layer' in reasons['layer/kernel']

    def test_remat_of_a_layer_itself(self):
        module = nn.remat(nn.Dense)(3)
        layers, reasons = _table(module, double(2, 4))
        assert set(layers) == {''}, reasons

    def test_module_that_is_not_called(self):
        params = {
            'used': init(nn.Dense(3), double(2, 4)),
            'other': {'kernel': double(2)},
        }

        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Dense(3, name='used')(x)

        layers, assignments = find_layers(Model(), params, double(2, 4))
        assert set(layers) == {'used'}
        (other,) = [a for a in assignments if not a.is_kfac]
        assert other.reason == (
            "no module of this path in variables['params'] is called by the model"
        )

    @pytest.mark.parametrize('frozen', ['kernel', 'bias'])
    def test_layer_of_which_one_parameter_is_frozen(self, frozen):
        module, inputs = nn.Dense(3, name='layer'), double(2, 4)
        params = init(module, inputs)
        del params[frozen]
        layers, assignments = find_layers(module, params, inputs)
        assert not layers
        (reason,) = [a.reason for a in assignments]
        assert reason == f'{frozen}, of the same layer, is not among the parameters'

    def test_shapes_of_stacked_parameters(self):
        _, reasons = _table(Stacked(), double(2, 3))
        assert '(2, 3, 3) there and (3, 3)' in reasons['steps/inner/kernel']

    def test_module_that_shares_the_scope_of_its_layer(self):
        layers, reasons = _table(SharedScope(), double(2, 3))
        assert set(layers) == {''}
        assert 'kernel' not in reasons['gain']
        assert reasons['gain'] == (
            'it is not a parameter of Dense , which shares its scope'
        )

    def test_one_compiled_class_for_two_modules(self):
        """What JAX traces for the first is taken for the second too."""
        module, inputs = CompiledTwice(), double(2, 3)
        layers, reasons = _table(module, inputs)
        assert set(layers) == {'one/inner', 'two/inner'}, reasons
        assert layers['two/inner'].seen_only_as_written

    def test_boxed_parameters(self):
        """As for sharding over devices."""
        boxed = nn.with_partitioning(nn.initializers.ones, (None, 'model'))
        module, inputs = nn.Dense(3, kernel_init=boxed), double(2, 4)
        params = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs))
        params = params['params']
        named = flatten(params)
        assert {name: leaf.shape for name, leaf in named.items()} == {
            'kernel': (4, 3),
            'bias': (3,),
        }
        assert unflatten(named, params) == params
        layers, _ = find_layers(module, named, inputs)
        assert set(layers) == {''}

    @pytest.mark.parametrize(
        ('module', 'shape', 'largest'),
        [
            (nn.Dense(3), (2, 8), 9),
            (nn.Dense(8), (2, 3), 8),
            (nn.DenseGeneral((2, 4)), (2, 3), 8),
            (
                nn.Conv(2, (3, 3), feature_group_count=2, use_bias=False),
                (1, 4, 4, 4),
                18,
            ),
            (nn.ConvTranspose(2, (3, 3), use_bias=False), (1, 4, 4, 2), 18),
            (nn.ConvTranspose(8, (2,), transpose_kernel=True), (1, 4, 2), 8),
        ],
        ids=['inputs', 'outputs', 'heads', 'groups', 'transposed', 'flipped'],
    )
    def test_too_large_factors_fall_back(self, module, shape, largest):
        inputs = double(*shape)
        assert _table(module, inputs, max_factor_dimension=largest)[0]
        layers, reasons = _table(module, inputs, max_factor_dimension=largest - 1)
        assert not layers
        for reason in reasons.values():
            assert reason == (
                f'a Kronecker factor of dimension {largest} exceeds '
                f'max_factor_dimension {largest - 1}'
            )
