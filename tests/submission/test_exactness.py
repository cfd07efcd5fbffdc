"""Where the approximations are exact, and where they are not.

The yardstick is the GGN from autograd, in float64. Propositions, lemmas and
settings are those of Eschenhagen et al. (2023).
"""

import functools

import pytest
import torch
from torch import nn

from experiments import ggn
from experiments.exactness import (
    DeepLinearNetwork,
    half_squared_norm,
    make_sums,
    type_2_factors,
)
from submission.likelihood import Likelihood
from submission.pytorch import labels
from submission.pytorch.capture import Capture
from submission.pytorch.layers import assign_parameters
from submission.pytorch.weight_sharing import BatchStructure

from .curvature import (
    EXACT,
    WRONG,
    Graphs,
    batch_of,
    covariance,
    double,
    error_bound,
    gaussian,
    kron,
    layer_errors,
)

N, R = 5, 3

MEAN = functools.partial(torch.mean, dim=1)
SUM = functools.partial(torch.sum, dim=1)

LIKELIHOODS = {
    'identity': half_squared_norm,
    'full covariance': gaussian(covariance(4)),
}


def _layer_names(model):
    return [layer.name for layer in assign_parameters(model, 1024)[0]]


@pytest.mark.parametrize('bias', [False, True], ids=['no bias', 'bias'])
@pytest.mark.parametrize('likelihood', LIKELIHOODS)
@pytest.mark.parametrize('dims', [(6, 4), (6, 5, 3, 4)], ids=['single', 'deep'])
class TestLinearNetworks:
    def test_expand_is_exact_with_a_loss_term_for_each_position(
        self, dims, likelihood, bias
    ):
        """Propositions 1 and 4; reduce is wrong there."""
        model = DeepLinearNetwork(dims, None, bias)
        batch = batch_of(double(N, R, dims[0]))
        for name in _layer_names(model):
            errors = layer_errors(model, batch, LIKELIHOODS[likelihood], N * R, name)
            assert errors['expand'] <= EXACT
            assert errors['reduce'] > WRONG

    @pytest.mark.parametrize('aggregation', [MEAN, SUM], ids=['mean', 'sum'])
    def test_reduce_is_exact_with_aggregated_positions(
        self, dims, likelihood, bias, aggregation
    ):
        """Proposition 2; expand is wrong there."""
        model = DeepLinearNetwork(dims, aggregation, bias)
        batch = batch_of(double(N, R, dims[0]))
        for name in _layer_names(model):
            errors = layer_errors(model, batch, LIKELIHOODS[likelihood], N, name)
            assert errors['reduce'] <= EXACT
            assert errors['expand'] > WRONG


def test_unequal_position_weights_break_reduce():
    """Proposition 2 needs a scaled sum: one factor for all positions."""
    weights = torch.tensor([0.2, 1.0, 2.5], dtype=torch.float64)

    def weighted(x):
        return torch.einsum('nrd,r->nd', x, weights)

    model = DeepLinearNetwork((6, 5, 4), weighted)
    errors = layer_errors(
        model, batch_of(double(N, R, 6)), half_squared_norm, N, 'layers.0'
    )
    assert errors['reduce'] > WRONG
    assert errors['expand'] > WRONG


class Attention(nn.Module):
    """Mixes positions by softmax attention, so inputs depend on all others."""

    def forward(self, x):
        return torch.softmax(x @ x.transpose(1, 2), -1) @ x


class AroundLayer(nn.Module):
    """The layer under test between a nonlinear trunk and whatever comes above."""

    def __init__(self, above):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 7), nn.GELU(), Attention(), nn.Tanh())
        self.layer = nn.Linear(7, 5)
        self.above = above
        self.head = nn.Linear(5, 4)
        self.double()

    def forward(self, x):
        return self.head(self.above(self.layer(self.trunk(x))))


class PositionGate(nn.Module):
    """Scales each position by a factor of its own."""

    def forward(self, x):
        return x * torch.tensor([0.2, 1.0, 2.5], dtype=x.dtype)[:, None]


class PositionMix(nn.Module):
    """Mixes positions linearly, the same way in every example."""

    def forward(self, x):
        matrix = torch.tensor(
            [[1.0, 0.5, 0.0], [0.5, 2.0, 0.5], [0.0, 0.5, 0.1]], dtype=x.dtype
        )
        return torch.einsum('qr,nrd->nqd', matrix, x)


class Pool(nn.Module):
    """Averages the positions."""

    def forward(self, x):
        return x.mean(1)


class TestSufficientConditions:
    """Lemmas 3 and 5: only the Jacobian above the layer has to be constant."""

    def _errors(self, above, loss_terms, n=N):
        model = AroundLayer(above)
        batch = batch_of(double(n, R, 6))
        return layer_errors(
            model, batch, LIKELIHOODS['full covariance'], loss_terms, 'layer'
        )

    def test_expand_whatever_the_inputs(self):
        """Lemma 3: the Jacobian term depends on neither n nor r."""
        errors = self._errors(nn.Identity(), N * R)
        assert errors['expand'] <= EXACT
        assert errors['reduce'] > WRONG

    @pytest.mark.parametrize(
        'above',
        [nn.ReLU(), PositionGate(), PositionMix()],
        ids=['depends on n', 'depends on r', 'other positions'],
    )
    def test_expand_needs_a_constant_jacobian(self, above):
        assert self._errors(above, N * R)['expand'] > WRONG

    def test_reduce_whatever_the_inputs(self):
        """Lemma 5: the Jacobian of the output depends on neither n nor r."""
        errors = self._errors(Pool(), N)
        assert errors['reduce'] <= EXACT
        assert errors['expand'] > WRONG

    def test_reduce_with_positions_mixed_evenly(self):
        """Mixing does no harm if every position gets the same total weight."""

        class EvenMix(nn.Module):
            def forward(self, x):
                return (0.7 * x + 0.3 * x.roll(1, 1)).sum(1)

        assert self._errors(EvenMix(), N)['reduce'] <= EXACT

    @pytest.mark.parametrize(
        'above',
        [
            nn.Sequential(nn.ReLU(), Pool()),
            nn.Sequential(PositionGate(), Pool()),
            nn.Sequential(PositionMix(), Pool()),
            nn.Sequential(Pool(), nn.ReLU()),
        ],
        ids=['depends on n and r', 'depends on r', 'uneven mix', 'depends on n'],
    )
    def test_reduce_needs_a_constant_jacobian(self, above):
        assert self._errors(above, N)['reduce'] > WRONG

    def test_reduce_of_one_example_needs_it_over_positions_only(self):
        above = nn.Sequential(Pool(), nn.Tanh())
        assert self._errors(above, 1, n=1)['reduce'] <= EXACT

    def test_zero_head_under_a_softmax(self):
        """Equal logits everywhere make the Hessian of the loss constant."""
        model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4)).double()
        nn.init.zeros_(model[2].weight)
        nn.init.zeros_(model[2].bias)

        def loss(outputs):
            return -torch.log_softmax(outputs, -1)[..., 0].sum()

        batch = batch_of(double(N, R, 6))
        assert layer_errors(model, batch, loss, N * R, '2')['expand'] <= EXACT


class PerPixel(nn.Module):
    """Convolutions with an output for each pixel, channels last."""

    def __init__(self, *convolutions):
        super().__init__()
        self.convolutions = nn.Sequential(*convolutions).double()

    def forward(self, x):
        return self.convolutions(x).flatten(2).transpose(1, 2)


class GloballyPooled(PerPixel):
    """Convolutions and global average pooling."""

    def forward(self, x):
        return super().forward(x).mean(1)


GEOMETRIES = {
    'plain': {},
    'stride': {'stride': 2},
    'padding': {'padding': (2, 1)},
    'dilation': {'dilation': (1, 2), 'padding': 1},
    'groups': {'groups': 2},
    'no bias': {'bias': False, 'padding': 'same'},
    'all': {'stride': (2, 1), 'padding': 1, 'dilation': (2, 1), 'groups': 2},
}


TRANSPOSED_GEOMETRIES = {
    'plain': {},
    'stride': {'stride': 2},
    'padding': {'padding': (2, 1)},
    'output padding': {'stride': (2, 3), 'output_padding': (1, 2)},
    'dilation': {'dilation': (1, 2), 'padding': 1},
    'groups': {'groups': 2},
    'no bias': {'bias': False, 'stride': (2, 1)},
    'all': {
        'stride': (2, 1),
        'padding': 1,
        'output_padding': (1, 0),
        'dilation': (2, 1),
        'groups': 2,
    },
}


class ConvolutionGeometry:
    """A single convolution, exact where a deep linear network is."""

    kind: type[nn.Module]
    image: tuple[int, int]

    def _errors(self, network, geometry):
        model = network(self.kind(2, 4, 3, **geometry))
        batch = batch_of(double(3, 2, *self.image))
        # Outputs are `[examples, classes]`, or `[examples, pixels, classes]`.
        loss_terms = model(batch['inputs'])[..., 0].numel()
        return layer_errors(
            model,
            batch,
            LIKELIHOODS['full covariance'],
            loss_terms,
            'convolutions.0',
            groups=geometry.get('groups', 1),
        )

    def test_expand_with_a_loss_term_for_each_pixel(self, geometry):
        errors = self._errors(PerPixel, geometry)
        assert errors['expand'] <= EXACT
        assert errors['reduce'] > WRONG

    def test_reduce_with_global_average_pooling(self, geometry):
        errors = self._errors(GloballyPooled, geometry)
        assert errors['reduce'] <= EXACT
        assert errors['expand'] > WRONG


@pytest.mark.parametrize('geometry', GEOMETRIES.values(), ids=GEOMETRIES)
class TestConvolutionGeometry(ConvolutionGeometry):
    kind, image = nn.Conv2d, (6, 5)


@pytest.mark.parametrize(
    'geometry', TRANSPOSED_GEOMETRIES.values(), ids=TRANSPOSED_GEOMETRIES
)
class TestTransposedConvolutionGeometry(ConvolutionGeometry):
    kind, image = nn.ConvTranspose2d, (4, 3)


class TestDeepConvolutions:
    """The Jacobian above the first convolution is constant, or it is not."""

    def _errors(self, model, loss_terms):
        return layer_errors(
            model,
            batch_of(double(3, 2, 6, 6)),
            half_squared_norm,
            loss_terms,
            'convolutions.0',
        )

    def test_expand_under_a_pointwise_convolution(self):
        model = PerPixel(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 1))
        assert self._errors(model, 3 * 36)['expand'] <= EXACT

    def test_expand_not_under_a_wider_one(self):
        model = PerPixel(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1))
        assert self._errors(model, 3 * 36)['expand'] > WRONG

    def test_reduce_under_a_circular_convolution(self):
        model = GloballyPooled(
            nn.Conv2d(2, 3, 3, padding=1),
            nn.Conv2d(3, 4, 3, padding=1, padding_mode='circular'),
        )
        assert self._errors(model, 3)['reduce'] <= EXACT

    def test_reduce_not_where_borders_count_less(self):
        model = GloballyPooled(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3))
        assert self._errors(model, 3)['reduce'] > WRONG

    @pytest.mark.parametrize(
        ('kind', 'positions'), [(nn.Conv1d, 4), (nn.ConvTranspose1d, 15)]
    )
    def test_one_dimensional(self, kind, positions):
        per_position = PerPixel(kind(2, 4, 3, stride=2, padding=1))
        batch = batch_of(double(3, 2, 8))
        name, loss_terms = 'convolutions.0', 3 * positions
        expand = layer_errors(per_position, batch, half_squared_norm, loss_terms, name)
        assert expand['expand'] <= EXACT
        pooled = GloballyPooled(kind(2, 4, 3, stride=2, padding=1))
        reduce = layer_errors(pooled, batch, half_squared_norm, 3, name)
        assert reduce['reduce'] <= EXACT


class TestDeepTransposedConvolutions:
    """What a transposed convolution does to the Jacobian below and above it."""

    def _errors(self, model, name, loss_terms):
        batch = batch_of(double(3, 2, 4, 4))
        return layer_errors(
            model, batch, half_squared_norm, loss_terms, f'convolutions.{name}'
        )

    def test_expand_under_one_whose_patches_do_not_overlap(self):
        model = PerPixel(
            nn.ConvTranspose2d(2, 3, 3, padding=1),
            nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False),
            nn.Conv2d(4, 2, 1),
        )
        for name in (0, 1, 2):
            assert self._errors(model, name, 3 * 64)['expand'] <= EXACT

    def test_expand_not_under_one_whose_patches_overlap(self):
        model = PerPixel(
            nn.ConvTranspose2d(2, 3, 3, padding=1), nn.ConvTranspose2d(3, 2, 3)
        )
        assert self._errors(model, 0, 3 * 36)['expand'] > WRONG

    def test_reduce_where_every_pixel_counts_the_same(self):
        model = GloballyPooled(
            nn.Conv2d(2, 3, 3),
            nn.ConvTranspose2d(3, 3, 3, stride=2, output_padding=1),
            nn.ConvTranspose2d(3, 4, 2, dilation=2),
        )
        for name in (0, 1, 2):
            errors = self._errors(model, name, 3)
            assert errors['reduce'] <= EXACT
            assert errors['expand'] > WRONG

    def test_reduce_not_where_borders_are_cut_off(self):
        model = GloballyPooled(
            nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(3, 4, 3, padding=1)
        )
        assert self._errors(model, 0, 3)['reduce'] > WRONG


class GraphNetwork(nn.Module):
    """Linear layers on nodes, pooled by graph."""

    def __init__(self, pooling):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4)
        self._pooling = pooling
        self.double()

    def forward(self, graphs):
        nodes = self.second(self.first(graphs.nodes))
        sums = nodes.new_zeros(len(graphs.n_node), 4)
        sums = sums.index_add(0, graphs.graph_of_node(), nodes)
        if self._pooling == 'sum':
            return sums
        return sums / graphs.n_node.clamp(min=1)[:, None]


def _graphs(n_node, seed=0):
    n_edge = [2] * len(n_node)
    return Graphs(
        double(sum(n_node), 6, seed=seed),
        double(sum(n_edge), 3, seed=seed),
        torch.tensor(n_node),
        torch.tensor(n_edge),
    )


class TestGraphs:
    """The number of positions differs between examples."""

    n_node = (1, 7, 3, 4)

    def _batch(self, n_node=n_node):
        n = len(n_node)
        weights = torch.ones(n, 4, dtype=torch.float64)
        return {'inputs': _graphs(n_node), 'targets': weights * 0, 'weights': weights}

    def _error(self, pooling, normalisation, name='first', n_node=n_node):
        return layer_errors(
            GraphNetwork(pooling),
            self._batch(n_node),
            half_squared_norm,
            len(n_node),
            name,
            normalisation=normalisation,
        )['reduce']

    @pytest.mark.parametrize('name', ['first', 'second'])
    def test_mean_inputs_fits_mean_pooling(self, name):
        assert self._error('mean', 'mean_inputs', name) <= EXACT
        assert self._error('mean', 'sum_inputs', name) > WRONG

    @pytest.mark.parametrize('name', ['first', 'second'])
    def test_sum_inputs_fits_sum_pooling(self, name):
        assert self._error('sum', 'sum_inputs', name) <= EXACT
        assert self._error('sum', 'mean_inputs', name) > WRONG

    @pytest.mark.parametrize('pooling', ['mean', 'sum'])
    def test_both_agree_on_graphs_of_one_size(self, pooling):
        for normalisation in ('mean_inputs', 'sum_inputs'):
            error = self._error(pooling, normalisation, n_node=(3, 3, 3, 3, 3))
            assert error <= EXACT

    @pytest.mark.parametrize('weighted', [True, False], ids=['weights', 'counts'])
    @pytest.mark.parametrize('approximation', ['expand', 'reduce'])
    @pytest.mark.parametrize('normalisation', ['mean_inputs', 'sum_inputs'])
    def test_padding_graphs_change_nothing(
        self, weighted, approximation, normalisation
    ):
        """jraph's padding: one graph with all spare rows, empty graphs after it."""
        model = GraphNetwork('sum')
        batch = self._batch()
        graphs = batch['inputs']
        padded = Graphs(
            torch.cat([graphs.nodes, 100 * double(5, 6, seed=1)]),
            torch.cat([graphs.edges, 100 * double(9, 3, seed=1)]),
            torch.tensor([*self.n_node, 5, 0]),
            torch.tensor([*graphs.n_edge.tolist(), 9, 0]),
        )
        weights = torch.cat([batch['weights'], torch.zeros(2, 4).double()])
        padded_batch = {'inputs': padded, 'targets': weights * 0}
        if weighted:
            padded_batch['weights'] = weights

        def padded_loss(outputs):
            return half_squared_norm(outputs * weights)

        args = (len(self.n_node), approximation, normalisation)
        expected = type_2_factors(model, batch, half_squared_norm, *args)
        actual = type_2_factors(model, padded_batch, padded_loss, *args)
        assert expected.keys() == actual.keys() == {'first', 'second'}
        for name in expected:
            for found, wanted in zip(actual[name], expected[name], strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)

    def test_graphs_without_rows(self):
        """They have no input to take part in the mean over n."""
        for pooling, normalisation in (('mean', 'mean_inputs'), ('sum', 'sum_inputs')):
            error = self._error(pooling, normalisation, n_node=(3, 0, 2, 4))
            assert error <= EXACT


def _factors(model, batch, loss, loss_terms, scale, approximation):
    """Factors from the gradients of a loss as it passes by (empirical Fisher)."""
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


@pytest.mark.parametrize('approximation', ['expand', 'reduce'])
class TestScale:
    def test_mean_loss_and_summed_loss_give_the_same_factors(self, approximation):
        model = AroundLayer(nn.Tanh())
        batch = batch_of(double(N, R, 6))
        targets = double(N, R, 4, seed=1)
        loss_terms = N * R

        def summed(outputs):
            return half_squared_norm(outputs - targets)

        def mean(outputs):
            return summed(outputs) / loss_terms

        args = (model, batch)
        from_sum = _factors(*args, summed, loss_terms, 1.0, approximation)
        from_mean = _factors(*args, mean, loss_terms, loss_terms, approximation)
        for name, factors in from_sum.items():
            for wanted, found in zip(factors, from_mean[name], strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)

    @pytest.mark.parametrize('aggregation', [None, MEAN], ids=['expand', 'reduce'])
    def test_only_the_number_of_loss_terms_sets_the_scale(
        self, approximation, aggregation
    ):
        """It is M, whether or not the approximation fits the setting."""
        model = DeepLinearNetwork((6, 5, 4), aggregation)
        batch = batch_of(double(N, R, 6))
        one, three = (
            type_2_factors(model, batch, half_squared_norm, terms, approximation)
            for terms in (1.0, 3.0)
        )
        for name in one:
            torch.testing.assert_close(one[name][0], three[name][0], rtol=0, atol=0)
            torch.testing.assert_close(one[name][1], 3 * three[name][1])

    def test_copies_of_the_batch_change_nothing(self, approximation):
        model = AroundLayer(nn.Tanh())
        inputs = double(N, R, 6)
        once = type_2_factors(
            model, batch_of(inputs), half_squared_norm, N * R, approximation
        )
        twice = type_2_factors(
            model,
            batch_of(torch.cat([inputs, inputs])),
            half_squared_norm,
            2 * N * R,
            approximation,
        )
        for name in once:
            torch.testing.assert_close(kron(once[name]), kron(twice[name]))


def _mlp():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()


@pytest.mark.parametrize('shape', [(N, 6), (N, 1, 6)], ids=['no axis', 'axis of one'])
def test_the_approximations_coincide_at_one_position(shape):
    model, batch = _mlp(), batch_of(double(*shape))
    expand, reduce = (
        type_2_factors(model, batch, half_squared_norm, N, approximation)
        for approximation in ('expand', 'reduce')
    )
    for name in expand:
        for left, right in zip(expand[name], reduce[name], strict=True):
            torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)


def test_one_example_without_weight_sharing_is_exact():
    model, batch = _mlp(), batch_of(double(1, 6))

    def loss(outputs):
        return -torch.log_softmax(outputs, -1)[:, 0].sum()

    for name in ('0', '2'):
        errors = layer_errors(model, batch, loss, 1, name)
        assert max(errors.values()) <= EXACT


def _per_example_gradients(model, inputs, targets):
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, example, target):
        outputs = torch.func.functional_call(model, parameters, (example[None],))
        return half_squared_norm(outputs[0] - target)

    per_example = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    return per_example(parameters, inputs, targets)


@pytest.mark.parametrize('approximation', ['expand', 'reduce'])
class TestEmpiricalFisher:
    """Without weight sharing."""

    def test_one_example_equals_the_outer_product_of_its_gradient(self, approximation):
        model, inputs, targets = _mlp(), double(1, 6), double(1, 4, seed=1)

        def loss(outputs):
            return half_squared_norm(outputs - targets)

        factors = _factors(model, batch_of(inputs), loss, 1, 1.0, approximation)
        gradients = _per_example_gradients(model, inputs, targets)
        for name in ('0', '2'):
            weight, bias = gradients[f'{name}.weight'], gradients[f'{name}.bias']
            joint = torch.cat([weight[0], bias[0][:, None]], 1)
            vector = joint.T.flatten()
            expected = torch.outer(vector, vector)
            assert ggn.relative_error(kron(factors[name])[0], expected) <= EXACT

    def test_factors_follow_from_per_example_gradients(self, approximation):
        """B is the mean outer product of the bias's gradients, one per example."""
        model, inputs, targets = _mlp(), double(N, 6), double(N, 4, seed=1)

        def loss(outputs):
            return half_squared_norm(outputs - targets) / N

        factors = _factors(model, batch_of(inputs), loss, N, N, approximation)
        gradients = _per_example_gradients(model, inputs, targets)
        for name in ('0', '2'):
            g = gradients[f'{name}.bias']
            torch.testing.assert_close(factors[name][1][0], g.T @ g / N)

    def test_exact_where_the_inputs_are_all_the_same(self, approximation):
        """Then A kron B is the mean outer product of per-example gradients."""
        model = nn.Linear(6, 4).double()
        inputs, targets = double(1, 6).expand(N, 6), double(N, 4, seed=1)

        def loss(outputs):
            return half_squared_norm(outputs - targets)

        factors = _factors(model, batch_of(inputs), loss, N, 1.0, approximation)
        gradients = _per_example_gradients(model, inputs, targets)
        joint = torch.cat([gradients['weight'], gradients['bias'][..., None]], -1)
        vectors = joint.transpose(1, 2).flatten(1)
        expected = vectors.T @ vectors / N
        assert ggn.relative_error(kron(factors[''])[0], expected) <= EXACT


def _sampled_factors(model, batch, likelihood, loss_terms, approximation, scale):
    layers, _ = assign_parameters(model, 1024)
    empty = functools.partial(make_sums, approximation=approximation)
    generator = torch.Generator().manual_seed(7)
    with Capture(layers, BatchStructure.from_batch(batch), empty) as capture:
        outputs = model(batch['inputs'])
        gradient = labels.sampled_output_gradient(
            likelihood, outputs, batch, generator, scale
        )
        capture.backward_to_layers(outputs, gradient)
    return {
        name: sums.kronecker_factors(loss_terms)
        for name, sums in capture.sums().items()
    }


def _categorical_loss(weights):
    def loss(outputs):
        return -(torch.log_softmax(outputs, -1)[..., 0] * weights).sum()

    return loss


def _bernoulli_loss(weights):
    def loss(outputs):
        losses = nn.functional.binary_cross_entropy_with_logits(
            outputs, torch.zeros_like(outputs), reduction='none'
        )
        return (losses * weights).sum()

    return loss


def _squared_error(scale):
    def loss(weights):
        def summed(outputs):
            return scale * (outputs.square() * weights[..., None]).sum()

        return summed

    return loss


MASK = torch.tensor(
    [[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.float64
)
TERM_WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize('approximation', ['expand', 'reduce'])
@pytest.mark.parametrize(
    ('likelihood', 'make_loss', 'weights', 'scale'),
    [
        (Likelihood.CATEGORICAL, _categorical_loss, torch.ones(4).double(), 1.0),
        (Likelihood.CATEGORICAL, _categorical_loss, TERM_WEIGHTS, 1.0),
        (Likelihood.BERNOULLI, _bernoulli_loss, MASK, 1.0),
        (Likelihood.GAUSSIAN, _squared_error(0.5), torch.ones(4).double(), 0.5),
        (Likelihood.GAUSSIAN, _squared_error(1.7), torch.ones(4).double(), 1.7),
    ],
    ids=['categorical', 'weighted', 'Bernoulli, mask', 'Gaussian', 'Gaussian, scale'],
)
def test_monte_carlo_converges_to_the_exact_ggn(
    likelihood, make_loss, weights, scale, approximation
):
    """Copies of the batch are samples: their factors average over them."""
    model = nn.Sequential(
        nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), Pool(), nn.Tanh(), nn.Linear(5, 4)
    ).double()
    inputs = double(4, R, 6)
    batch = batch_of(inputs, weights=weights)
    loss_terms = float(weights.sum())
    exact = type_2_factors(model, batch, make_loss(weights), loss_terms, approximation)
    for samples in (400, 20_000):
        copies = batch_of(
            inputs.repeat(samples, 1, 1),
            weights=weights.repeat(samples, *[1] * (weights.dim() - 1)),
        )
        sampled = _sampled_factors(
            model, copies, likelihood, loss_terms * samples, approximation, scale
        )
        for name, factors in exact.items():
            error = ggn.relative_error(kron(sampled[name]), kron(factors))
            assert error <= error_bound(samples)
