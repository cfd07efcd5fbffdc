"""Inputs and gradients captured during a forward and backward pass."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from submission.jax.capture import Capture, find_applications
from submission.jax.naming import flatten
from submission.jax.preconditioner import KFACPreconditioner
from submission.jax.weight_sharing import BatchStructure
from submission.settings import Settings

from .curvature import (
    Graphs,
    batch_of,
    captured_sums,
    double,
    find_layers,
    init,
    make_sums,
)

pytestmark = pytest.mark.usefixtures('double_precision')

N, R, D = 4, 3, 5
CLOSE = {'rtol': 1e-10, 'atol': 1e-12}

both = pytest.mark.parametrize('approximation', ['expand', 'reduce'])


def _captured(module, params, batch, approximation='expand', forward=None):
    """The sums from the gradients of the summed square of the outputs."""
    return captured_sums(
        module,
        params,
        batch,
        lambda outputs: 2 * outputs[None],
        approximation,
        forward=forward,
    )


def _assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        for found, expected in zip(left[name], right[name], strict=True):
            np.testing.assert_allclose(found, expected, **CLOSE)
        assert left[name].inputs.any()
        assert left[name].gradients.any()


def _with_one(rows):
    return np.concatenate([rows, np.ones((*rows.shape[:-1], 1))], -1)


class MLP(nn.Module):
    """Two layers; what is between and around them can be replaced."""

    def setup(self):
        self.first, self.second = nn.Dense(D), nn.Dense(2)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class TestGradients:
    @both
    def test_against_autodiff(self, approximation):
        module, inputs = MLP(), double(N, R, D)
        params = init(module, inputs)
        sums = _captured(module, params, batch_of(inputs), approximation)
        assert sums.keys() == {'first', 'second'}
        weight, bias = params['first']['kernel'], params['first']['bias']
        hidden = inputs @ weight + bias

        def rest(hidden):
            outputs = jnp.tanh(hidden) @ params['second']['kernel']
            return ((outputs + params['second']['bias']) ** 2).sum()

        rows, gradients = _with_one(inputs), np.asarray(jax.grad(rest)(hidden))
        if approximation == 'reduce':
            rows, gradients = rows.mean(1), gradients.sum(1)
        rows, gradients = rows.reshape(-1, D + 1), gradients.reshape(-1, D)
        np.testing.assert_allclose(sums['first'].inputs[0], rows.T @ rows, **CLOSE)
        np.testing.assert_allclose(
            sums['first'].gradients[0], gradients.T @ gradients, **CLOSE
        )
        assert sums['first'].input_count == len(rows)

    def test_watching_changes_neither_outputs_nor_gradients(self):
        """Bit for bit, compiled alike."""
        module, inputs = MLP(), double(N, R, D)
        params, batch = init(module, inputs), batch_of(inputs)
        layers, _ = find_layers(module, params, inputs)

        def model(params):
            return module.apply({'params': params}, inputs), 'auxiliary'

        def plain(params):
            outputs, pull_back = jax.vjp(lambda params: model(params)[0], params)
            return outputs, pull_back(2 * outputs)[0]

        def watched(params):
            capture = Capture(
                list(layers.values()),
                BatchStructure.from_batch(batch),
                make_sums('expand'),
            )
            outputs, backward, auxiliary = capture.vjp(model, params)
            assert auxiliary == 'auxiliary'
            gradients, sums = backward(2 * outputs)
            return outputs, gradients, sums

        for transform in (jax.jit, lambda function: function):
            outputs, gradients, sums = transform(watched)(params)
            expected = transform(plain)(params)
            jax.tree.map(np.testing.assert_array_equal, (outputs, gradients), expected)
            assert sums['first'].gradients.any()

    def test_eager_and_compiled_agree(self):
        module, inputs = MLP(), double(N, R, D)
        params, batch = init(module, inputs), batch_of(inputs)
        compiled = _captured(module, params, batch)
        with jax.disable_jit():
            eager = _captured(module, params, batch)
        _assert_same(eager, compiled)

    def test_two_backward_passes_are_apart(self):
        """The training labels' gradients do not enter the sampled ones'."""
        module, inputs = MLP(), double(N, R, D)
        params, batch = init(module, inputs), batch_of(inputs)
        layers, _ = find_layers(module, params, inputs)

        @jax.jit
        def run(params):
            capture = Capture(
                list(layers.values()),
                BatchStructure.from_batch(batch),
                make_sums('expand'),
            )
            outputs, backward, _ = capture.vjp(
                lambda params: (module.apply({'params': params}, inputs), None), params
            )
            backward(100 * outputs)
            return backward(2 * outputs)[1]

        _assert_same(run(params), _captured(module, params, batch))

    @both
    def test_convolution(self, approximation):
        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Conv(2, (3,), strides=2, padding='VALID', name='conv')(x)

        module, inputs = Model(), double(N, 7, 2)
        params = init(module, inputs)
        sums = _captured(module, params, batch_of(inputs), approximation)['conv']
        windows = np.stack([inputs[:, 2 * i : 2 * i + 3] for i in range(3)], 1)
        rows = _with_one(windows.swapaxes(-1, -2).reshape(N, 3, 6))
        gradients = 2 * np.asarray(module.apply({'params': params}, inputs))
        if approximation == 'reduce':
            rows, gradients = rows.mean(1), gradients.sum(1)
        rows, gradients = rows.reshape(-1, 7), gradients.reshape(-1, 2)
        np.testing.assert_allclose(sums.inputs[0], rows.T @ rows, **CLOSE)
        np.testing.assert_allclose(sums.gradients[0], gradients.T @ gradients, **CLOSE)

    @both
    def test_convolution_over_padded_tokens(self, approximation):
        """Positions that are padding enter neither factor."""

        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Conv(2, (3,), name='conv')(x)

        module, values = Model(), double(2, 5, D)
        params = init(module, values)
        tokens = np.array([[1, 2, 3, 0, 0], [1, 0, 0, 0, 0]])
        batch = {'inputs': values, 'targets': tokens, 'weights': (tokens != 0) * 1.0}
        sums = _captured(module, params, batch, approximation)['conv']
        padded = np.pad(values, [(0, 0), (1, 1), (0, 0)])
        windows = np.stack([padded[:, i : i + 3] for i in range(5)], 1)
        rows = _with_one(windows.swapaxes(-1, -2).reshape(2, 5, -1))
        gradients = 2 * np.asarray(module.apply({'params': params}, values))
        rows = [rows[0, :3], rows[1, :1]]
        gradients = [gradients[0, :3], gradients[1, :1]]
        if approximation == 'reduce':
            rows = [r.mean(0, keepdims=True) for r in rows]
            gradients = [g.sum(0, keepdims=True) for g in gradients]
        rows, gradients = np.concatenate(rows), np.concatenate(gradients)
        np.testing.assert_allclose(sums.inputs[0], rows.T @ rows, **CLOSE)
        np.testing.assert_allclose(sums.gradients[0], gradients.T @ gradients, **CLOSE)
        assert sums.input_count == len(rows)


class Halves(nn.Module):
    """One layer on either half of the positions."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(D, name='layer')
        return jnp.concatenate([layer(x[:, :R]), layer(x[:, R:])], 1)


class Whole(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(D, name='layer')(x)


class InARow(nn.Module):
    """One layer on its own output."""

    times: int = 3

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(x.shape[-1], name='layer')
        for _ in range(self.times):
            x = jnp.tanh(layer(x))
        return x


class Step(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        carry = jnp.tanh(nn.Dense(carry.shape[-1], name='layer')(carry))
        return carry, None


class InALoop(nn.Module):
    """The same as `InARow`, by `nn.scan` with shared parameters."""

    @nn.compact
    def __call__(self, x):
        loop = nn.scan(
            Step, variable_broadcast='params', split_rngs={'params': False}, length=3
        )
        return loop(name='loop')(x, None)[0]


class Rematerialised(nn.Module):
    """What is inside is computed again in the backward pass."""

    inner: type[nn.Module]
    policy: object = None

    @nn.compact
    def __call__(self, x):
        return nn.remat(self.inner, policy=self.policy)(name='inner')(x)


class RematerialisedLayer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.remat(nn.Dense)(D, name='layer')(x)


class ByKeyword(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(D, name='layer')(inputs=x)


class Compiled(nn.Module):
    """Compiled by itself within the model."""

    @nn.compact
    def __call__(self, x):
        return nn.jit(Whole)(name='inner')(x)


@both
class TestWaysToCallALayer:
    def _compare(self, approximation, module, shape, prefix, like):
        """Expects the sums of another module with the same parameters."""
        inputs = double(*shape)
        params = init(like, inputs)
        batch = batch_of(inputs)
        expected = _captured(like, params, batch, approximation)
        for part in reversed(prefix):
            params = {part: params}
        found = _captured(module, params, batch, approximation)
        assert found.keys() == {'/'.join([*prefix, 'layer'])}
        _assert_same({'layer': next(iter(found.values()))}, expected)

    def test_applied_twice(self, approximation):
        """As many positions more, whichever of the applications they belong to."""
        self._compare(approximation, Halves(), (N, 2 * R, D), [], Whole())

    def test_remat(self, approximation):
        self._compare(
            approximation, Rematerialised(Halves), (N, 2 * R, D), ['inner'], Whole()
        )

    def test_remat_that_saves_products(self, approximation):
        module = Rematerialised(Whole, jax.checkpoint_policies.dots_saveable)
        self._compare(approximation, module, (N, R, D), ['inner'], Whole())

    def test_remat_of_the_layer_itself(self, approximation):
        self._compare(approximation, RematerialisedLayer(), (N, R, D), [], Whole())

    def test_scan_with_shared_parameters(self, approximation):
        self._compare(approximation, InALoop(), (N, R, D), ['loop'], InARow())

    def test_keyword(self, approximation):
        self._compare(approximation, ByKeyword(), (N, R, D), [], Whole())

    def test_jit_within_the_model(self, approximation):
        self._compare(approximation, Compiled(), (N, R, D), ['inner'], Whole())


class CompiledTwice(nn.Module):
    """One compiled class for two modules, of which JAX traces one."""

    @nn.compact
    def __call__(self, x):
        compiled = nn.jit(Whole)
        return compiled(name='two')(jnp.tanh(compiled(name='one')(x)))


class Gated(nn.Module):
    """Under the path of its layer, with an output of another width."""

    def setup(self):
        self.layer = nn.Dense(2 * D)
        nn.share_scope(self, self.layer)

    def __call__(self, x):
        values, gates = jnp.split(self.layer(x), 2, -1)
        return values * jax.nn.sigmoid(gates)


class TestCallsOfOneTraceOrPath:
    def test_one_compiled_class_for_two_modules(self):
        module, inputs = CompiledTwice(), double(N, D)
        params = init(module, inputs)
        sums = _captured(module, params, batch_of(inputs))
        first = params['one']['layer']
        hidden = np.tanh(inputs @ first['kernel'] + first['bias'])
        for name, rows in (('one', inputs), ('two', hidden)):
            rows = _with_one(rows)
            found = sums[f'{name}/layer']
            np.testing.assert_allclose(found.inputs[0], rows.T @ rows, **CLOSE)
            assert found.input_count == N

    def test_module_that_shares_the_scope_of_its_layer(self):
        module, inputs = Gated(), double(N, D)
        sums = _captured(module, init(module, inputs), batch_of(inputs))['']
        assert sums.input_count == N
        assert sums.gradients.shape == (1, 2 * D, 2 * D)

    def test_another_model_with_the_same_paths(self):
        """A teacher, for instance."""
        module, inputs = Whole(), double(N, D)
        params = init(module, inputs)
        teacher = {'layer': {'kernel': double(2 * D, D), 'bias': double(D)}}

        def forward(params, inputs):
            doubled = jnp.concatenate([inputs, inputs], 1)
            target = module.apply({'params': teacher}, doubled)
            return module.apply({'params': params}, inputs) - target

        with pytest.raises(ValueError, match=r'shape \(5, 5\).* with \(10, 5\)'):
            _errors(module, params, batch_of(inputs), 'expand', forward)


def _errors(module, params, batch, approximation, forward):
    """The reasons for which layers are left out; nothing is computed."""
    layers, _ = find_layers(module, params, batch['inputs'])
    structure = BatchStructure.from_batch(batch)
    capture = Capture(list(layers.values()), structure, make_sums(approximation))
    jax.eval_shape(
        lambda params: capture.vjp(
            lambda params: (forward(params, batch['inputs']), None), params
        )[0],
        params,
    )
    return capture.errors


class LoopOfQueries(nn.Module):
    """A learnt query, of one example, that a layer is applied to several times."""

    @nn.compact
    def __call__(self, x):
        query = self.param('query', nn.initializers.ones, (1, 2, D))
        query = InALoop(name='scan')(InARow(name='row')(query))
        return nn.Dense(2, name='head')(x) + query.sum()


class TestBatchInParts:
    """The examples cannot be told apart, and it is said what to do."""

    @both
    @pytest.mark.parametrize('module', [InARow(2), InALoop()], ids=['plain', 'scan'])
    def test_vmap_over_examples(self, approximation, module):
        inputs = double(N, R, D)

        def forward(params, inputs):
            return jax.vmap(lambda x: module.apply({'params': params}, x))(inputs)

        params = init(module, inputs)
        errors = _errors(module, params, batch_of(inputs), approximation, forward)
        (reason,) = errors.values()
        assert 'runs under a vmap' in reason
        assert 'call the model on the whole batch' in reason

    @pytest.mark.parametrize('size', [1, 2])
    def test_loop_over_parts(self, size):
        module, inputs = Whole(), double(N, R, D)

        def forward(params, inputs):
            return jnp.concatenate(
                [
                    module.apply({'params': params}, inputs[i : i + size])
                    for i in range(0, N, size)
                ]
            )

        params, batch = init(module, inputs), batch_of(inputs)
        errors = _errors(module, params, batch, 'reduce', forward)
        assert f'applied to {size} of the 4 examples at a time' in errors['layer']
        assert not _errors(module, params, batch, 'expand', forward)

    def test_scan_over_parts(self):
        module, inputs = Whole(), double(N, R, D)

        def forward(params, inputs):
            parts = inputs.reshape(2, 2, R, D)
            return jax.lax.map(lambda x: module.apply({'params': params}, x), parts)

        params, batch = init(module, inputs), batch_of(inputs)
        errors = _errors(module, params, batch, 'reduce', forward)
        assert 'applied to 2 of the 4 examples at a time' in errors['layer']

    def test_learnt_queries_are_no_parts(self):
        module, inputs = LoopOfQueries(), double(N, R, D)

        def forward(params, inputs):
            return module.apply({'params': params}, inputs)

        params, batch = init(module, inputs), batch_of(inputs)
        assert not _errors(module, params, batch, 'reduce', forward)


class TestRepeatedLayers:
    def test_applied_in_a_row_by_hand(self):
        module, inputs = InARow(2), double(N, D)
        params = init(module, inputs)
        weight, bias = params['layer']['kernel'], params['layer']['bias']
        sums = _captured(module, params, batch_of(inputs))['layer']
        hidden = np.tanh(inputs @ weight + bias)
        outputs = np.tanh(hidden @ weight + bias)
        outer = 2 * outputs * (1 - outputs**2)
        inner = (outer @ weight.T) * (1 - hidden**2)
        rows = [_with_one(inputs), _with_one(hidden)]
        np.testing.assert_allclose(sums.inputs[0], sum(r.T @ r for r in rows), **CLOSE)
        np.testing.assert_allclose(
            sums.gradients[0], outer.T @ outer + inner.T @ inner, **CLOSE
        )
        assert sums.input_count == 2 * N

    def test_reduce_sums_before_the_product(self):
        """Two applications to one position each are two positions of one example."""
        module, inputs = InARow(2), double(N, D)
        params = init(module, inputs)
        weight, bias = params['layer']['kernel'], params['layer']['bias']
        sums = _captured(module, params, batch_of(inputs), 'reduce')['layer']
        hidden = np.tanh(inputs @ weight + bias)
        outputs = np.tanh(hidden @ weight + bias)
        outer = 2 * outputs * (1 - outputs**2)
        inner = (outer @ weight.T) * (1 - hidden**2)
        rows, gradients = (_with_one(inputs) + _with_one(hidden)) / 2, outer + inner
        np.testing.assert_allclose(sums.inputs[0], rows.T @ rows, **CLOSE)
        np.testing.assert_allclose(sums.gradients[0], gradients.T @ gradients, **CLOSE)
        assert sums.input_count == N


class WithQuery(nn.Module):
    """A layer for the inputs and a learnt query, which has no examples."""

    n_queries: int
    own_layer: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(D, name='layer')
        query = self.param('query', nn.initializers.ones, (self.n_queries, 2, D))
        query_layer = nn.Dense(D, name='own') if self.own_layer else layer
        return nn.Dense(2, name='head')(layer(x)) + query_layer(query).sum()


class TestExamples:
    def _run(self, module, approximation):
        inputs = double(N, R, D)
        params, batch = init(module, inputs), batch_of(inputs)
        layers, _ = find_layers(module, params, inputs)
        captures = []

        @jax.jit
        def run(params):
            capture = Capture(
                list(layers.values()),
                BatchStructure.from_batch(batch),
                make_sums(approximation),
            )
            captures.append(capture)
            outputs, backward, _ = capture.vjp(
                lambda params: (module.apply({'params': params}, inputs), None), params
            )
            return backward(2 * outputs)[1]

        return run(params), captures[0].errors, params

    @both
    def test_learnt_query_with_fewer_examples(self, approximation):
        sums, errors, params = self._run(WithQuery(3, own_layer=True), approximation)
        assert not errors
        assert sums.keys() == {'layer', 'own', 'head'}
        rows = _with_one(params['query'])
        rows = rows.mean(1) if approximation == 'reduce' else rows.reshape(6, -1)
        np.testing.assert_allclose(sums['own'].inputs[0], rows.T @ rows, **CLOSE)
        assert sums['own'].input_count == len(rows)

    def test_reduce_over_more_examples_than_the_batch_has(self):
        sums, errors, _ = self._run(WithQuery(2 * N - 1, own_layer=True), 'reduce')
        assert sums.keys() == {'layer', 'head'}
        assert '7 examples in a batch of 4' in errors['own']

    def test_reduce_over_different_numbers_of_examples(self):
        """The layer is left out with the reason, and the others go on."""
        sums, errors, _ = self._run(WithQuery(3), 'reduce')
        assert sums.keys() == {'head'}
        assert '4 examples' in errors['layer']
        assert 'to 3' in errors['layer']

    def test_expand_over_different_numbers_of_examples(self):
        sums, errors, _ = self._run(WithQuery(3), 'expand')
        assert not errors
        assert sums['layer'].input_count == N * R + 3 * 2


class PartlyUsed(nn.Module):
    """Layers whose output has no influence, and one that is not called."""

    def setup(self):
        self.unused, self.stopped = nn.Dense(D), nn.Dense(D)
        self.uncalled, self.head = nn.Dense(D), nn.Dense(2)

    def __call__(self, x):
        if self.is_initializing():
            self.uncalled(x)
        self.unused(x)
        return self.head(x + jax.lax.stop_gradient(self.stopped(x)))


class TestUnreachedLayers:
    @both
    def test_they_get_no_curvature(self, approximation):
        module, inputs = PartlyUsed(), double(N, D)
        params = init(module, inputs)
        sums = _captured(module, params, batch_of(inputs), approximation)
        assert 'uncalled' not in sums
        assert sums['head'].gradients.any()
        for name in ('unused', 'stopped'):
            assert not sums[name].gradients.any()

    def test_they_are_said_once_and_keep_the_gradient(self, caplog):
        module, inputs = PartlyUsed(), double(N, D)
        params, batch = init(module, inputs), batch_of(inputs)
        shapes = {name: p.shape for name, p in flatten(params).items()}
        applications = find_applications(lambda: module.init(jax.random.key(0), inputs))
        preconditioner = KFACPreconditioner(shapes, applications, Settings())

        def step(state, params):
            capture = preconditioner.capture(batch)
            outputs, backward, _ = capture.vjp(
                lambda params: (module.apply({'params': params}, inputs), None),
                params,
            )
            sums = backward(2 * outputs)[1]
            preconditioner.log_unreached(capture, sums)
            state = preconditioner.update_factors(state, sums, N, 1.0)
            return preconditioner.update_inverses(state)

        state = preconditioner.init(params)
        with caplog.at_level(logging.WARNING):
            jax.eval_shape(step, state, params)
            state = jax.jit(step)(state, params)
        (message,) = [record.getMessage() for record in caplog.records]
        assert 'layer uncalled' in message
        assert 'the forward pass does not reach it' in message
        gradients = flatten(params)
        outcome = jax.jit(preconditioner.precondition)(state, gradients)
        kept = {n for n in gradients if np.array_equal(outcome[n], gradients[n])}
        assert kept >= {'uncalled/kernel', 'uncalled/bias'}
        assert 'head/kernel' not in kept


class TestPrecision:
    @both
    def test_layer_in_bfloat16(self, approximation):
        """The factors are sums in the precision of the parameters."""

        class Model(nn.Module):
            dtype: object = None

            @nn.compact
            def __call__(self, x):
                x = nn.Dense(D, name='first', dtype=self.dtype)(x)
                return nn.Dense(2, name='second', dtype=self.dtype)(x).astype(float)

        inputs = double(64, R, D).astype('bfloat16').astype(float)
        params = init(Model(), inputs)
        batch = batch_of(inputs)
        half = _captured(Model('bfloat16'), params, batch, approximation)
        full = _captured(Model(), params, batch, approximation)
        for name in ('first', 'second'):
            for found, expected in zip(half[name], full[name], strict=True):
                assert found.dtype == np.float64
                size = np.abs(expected).max()
                np.testing.assert_allclose(found / size, expected / size, atol=0.02)
        # What the first layer gets is exact in bfloat16, and so is its factor.
        np.testing.assert_allclose(half['first'].inputs, full['first'].inputs, **CLOSE)


class GraphModel(nn.Module):
    """Layers on nodes, edges and graphs."""

    @nn.compact
    def __call__(self, graphs):
        nodes = nn.Dense(2, name='node')(graphs.nodes)
        edges = nn.Dense(2, name='edge')(graphs.edges)
        pooled = jax.ops.segment_sum(nodes, graphs.graph_of_node(), len(graphs.n_node))
        return nn.Dense(2, name='head')(pooled + edges.sum(0))


class TestAmbiguousRows:
    """Rows that fit nodes as well as edges: the layer is left out, and it is said."""

    def _batch(self):
        graphs = Graphs(
            double(7, 6),
            double(7, 3),
            np.zeros(7, int),
            np.array([2, 3, 2]),
            np.array([4, 2, 1]),
        )
        return {'inputs': graphs, 'targets': np.zeros((3, 2))}

    @both
    def test_other_layers_go_on(self, approximation):
        module, batch = GraphModel(), self._batch()
        params = init(module, batch['inputs'])
        assert _captured(module, params, batch, approximation).keys() == {'head'}

    def test_the_reason_is_logged(self, caplog):
        module, batch = GraphModel(), self._batch()
        params = init(module, batch['inputs'])
        shapes = {name: p.shape for name, p in flatten(params).items()}
        applications = find_applications(
            lambda: module.init(jax.random.key(0), batch['inputs'])
        )
        preconditioner = KFACPreconditioner(shapes, applications, Settings())

        def step(params):
            capture = preconditioner.capture(batch)
            outputs, backward, _ = capture.vjp(
                lambda params: (
                    module.apply({'params': params}, batch['inputs']),
                    None,
                ),
                params,
            )
            preconditioner.log_unreached(capture, backward(outputs)[1])

        with caplog.at_level(logging.WARNING):
            jax.eval_shape(step, params)
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 2
        for name in ('node', 'edge'):
            (message,) = [m for m in messages if f'layer {name}:' in m]
            assert '7 rows' in message
