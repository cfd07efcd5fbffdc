"""Inputs and gradients captured during a forward and backward pass."""

import functools
import logging

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from experiments.exactness import make_sums
from submission.pytorch.capture import Capture
from submission.pytorch.layers import assign_parameters
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.pytorch.weight_sharing import BatchStructure
from submission.settings import Settings

from .curvature import Graphs, batch_of, double

N, R, D = 4, 3, 5

both = pytest.mark.parametrize('approximation', ['expand', 'reduce'])


def _capture(model, batch, approximation='expand'):
    layers, _ = assign_parameters(model, 1024)
    empty = functools.partial(make_sums, approximation=approximation)
    return Capture(layers, BatchStructure.from_batch(batch), empty)


def _empirical(model, batch, approximation='expand', forward=None):
    """The sums from the gradients of the summed square of the outputs."""
    forward = model if forward is None else forward
    with _capture(model, batch, approximation) as capture:
        outputs = forward(batch['inputs'])
        capture.watch_backward()
        outputs.square().sum().backward()
    return capture.sums()


def _cotangent(outputs):
    return 2 * outputs.detach()


def _by_cotangent(model, batch, approximation='expand', forward=None):
    """The same sums by going back to the layers alone."""
    forward = model if forward is None else forward
    with _capture(model, batch, approximation) as capture:
        outputs = forward(batch['inputs'])
        capture.backward_to_layers(outputs, _cotangent(outputs))
    return capture.sums()


def _assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        for field in ('inputs', 'input_count', 'gradients'):
            torch.testing.assert_close(
                getattr(left[name], field), getattr(right[name], field)
            )


def _hooks(model):
    return [
        hook
        for module in model.modules()
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        for hook in hooks.values()
    ]


def _mlp(activation=None):
    activation = nn.Tanh() if activation is None else activation
    return nn.Sequential(nn.Linear(D, D), activation, nn.Linear(D, 2)).double()


class TestGradients:
    @both
    def test_both_ways_back_give_the_same(self, approximation):
        model, batch = _mlp(), batch_of(double(N, R, D))
        expected = _empirical(model, batch, approximation)
        assert expected.keys() == {'0', '2'}
        _assert_same(_by_cotangent(model, batch, approximation), expected)

    def test_against_autograd(self):
        model, inputs = _mlp(), double(N, D)
        hidden = model[0](inputs).detach().requires_grad_()
        outputs = model[2](model[1](hidden))
        gradient = torch.autograd.grad(outputs.square().sum(), hidden)[0]
        sums = _empirical(model, batch_of(inputs))['0']
        torch.testing.assert_close(sums.gradients[0], gradient.T @ gradient)
        ones = torch.cat([inputs, torch.ones(N, 1)], 1)
        torch.testing.assert_close(sums.inputs[0], ones.T @ ones)
        assert sums.input_count == N

    def test_watching_changes_no_gradient(self):
        model, batch = _mlp(), batch_of(double(N, R, D))
        model(batch['inputs']).square().sum().backward()
        expected = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        _empirical(model, batch)
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)

    def test_going_back_to_layers_leaves_parameters_alone(self):
        model, batch = _mlp(), batch_of(double(N, R, D))
        _by_cotangent(model, batch)
        assert all(p.grad is None for p in model.parameters())

    def test_the_loss_can_still_be_differentiated_afterwards(self):
        """And its gradients do not enter the sums of the sampled ones."""
        model, batch = _mlp(), batch_of(double(N, R, D))
        with _capture(model, batch) as capture:
            outputs = model(batch['inputs'])
            capture.backward_to_layers(outputs, _cotangent(outputs))
            (100 * outputs).sum().backward()
        _assert_same(capture.sums(), _by_cotangent(model, batch))
        assert all(p.grad is not None for p in model.parameters())

    @both
    @pytest.mark.parametrize('way', [_empirical, _by_cotangent])
    @pytest.mark.parametrize('shape', [(N, D), (N, R, D), (N, 2, R, D)])
    def test_output_changed_in_place(self, approximation, way, shape):
        """With three axes the output of `nn.Linear` is a view, with two it is not."""
        plain, in_place = _mlp(nn.ReLU()), _mlp(nn.ReLU(inplace=True))
        in_place.load_state_dict(plain.state_dict())
        batch = batch_of(double(*shape))
        expected = way(plain, batch, approximation)
        assert expected.keys() == {'0', '2'}
        _assert_same(way(in_place, batch, approximation), expected)

    @both
    @pytest.mark.parametrize('way', [_empirical, _by_cotangent])
    def test_any_other_view_changed_in_place(self, approximation, way):
        """A convolution without a batch axis returns a view, here not contiguous."""
        plain, in_place = (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace), nn.Conv2d(3, 2, 2))
            .double()
            .to(memory_format=torch.channels_last)
            for inplace in (False, True)
        )
        in_place.load_state_dict(plain.state_dict())
        output = plain[0](double(2, 4, 4))
        assert output._is_view()
        assert not output.is_contiguous()
        batch = {'inputs': double(2, 4, 4), 'targets': torch.zeros(1)}
        expected = way(plain, batch, approximation)
        assert expected.keys() == {'0', '2'}
        _assert_same(way(in_place, batch, approximation), expected)

    @both
    def test_convolution(self, approximation):
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)
        ).double()
        batch = batch_of(double(N, 2, 4, 4))
        expected = _empirical(model, batch, approximation)
        assert expected['0'].inputs.shape == (1, 19, 19)
        _assert_same(_by_cotangent(model, batch, approximation), expected)


class TestRepeatedLayers:
    @both
    @pytest.mark.parametrize('way', [_empirical, _by_cotangent])
    def test_module_applied_twice(self, approximation, way):
        """As many positions more, whichever of the applications they belong to."""
        layer = nn.Linear(D, D).double()
        batch = batch_of(double(N, 2 * R, D))

        def in_two_parts(inputs):
            return torch.cat([layer(inputs[:, :R]), layer(inputs[:, R:])], 1)

        expected = way(layer, batch, approximation)
        _assert_same(way(layer, batch, approximation, in_two_parts), expected)

    def test_module_applied_in_a_row(self):
        layer, inputs = nn.Linear(D, D, bias=False).double(), double(N, D)
        sums = _empirical(layer, batch_of(inputs), forward=lambda x: layer(layer(x)))
        hidden = layer(inputs).detach()
        outer = 2 * layer(hidden).detach()
        inner = outer @ layer.weight.detach()
        torch.testing.assert_close(
            sums[''].inputs[0], inputs.T @ inputs + hidden.T @ hidden
        )
        torch.testing.assert_close(
            sums[''].gradients[0], outer.T @ outer + inner.T @ inner
        )
        assert sums[''].input_count == 2 * N

    @both
    def test_tied_modules(self, approximation):
        """Two modules of the same parameters are one layer."""
        first, second = nn.Linear(D, D).double(), nn.Linear(D, D).double()
        second.weight, second.bias = first.weight, first.bias
        tied = nn.ModuleList([first, second])
        batch = batch_of(double(N, 2 * R, D))

        def by_both(inputs):
            return torch.cat([first(inputs[:, :R]), second(inputs[:, R:])], 1)

        expected = _empirical(first, batch, approximation)['']
        sums = _empirical(tied, batch, approximation, by_both)
        assert sums.keys() == {'0'}
        _assert_same({'0': expected}, sums)

    def test_reduce_over_different_numbers_of_examples(self):
        """The layer is left out with the reason, and the others go on."""
        model = _mlp()
        batch = batch_of(double(N, R, D))

        def forward(inputs):
            query = double(2 * N - 1, 1, D)
            return model(inputs).sum() + model[0](query).sum()

        with _capture(model, batch, 'reduce') as capture:
            value = forward(batch['inputs'])
            capture.watch_backward()
            value.backward()
        assert capture.sums().keys() == {'2'}
        assert '7' in capture.errors['0']


class TestUnreachedLayers:
    def test_module_that_is_not_called(self):
        model = nn.ModuleList([nn.Linear(D, 2), nn.Linear(D, 2)]).double()
        batch = batch_of(double(N, D))
        for way in (_empirical, _by_cotangent):
            assert way(model, batch, forward=model[1]).keys() == {'1'}

    def test_module_whose_output_is_not_used(self):
        model = nn.ModuleList([nn.Linear(D, 2), nn.Linear(D, 2)]).double()
        batch = batch_of(double(N, D))

        def forward(inputs):
            model[0](inputs)
            return model[1](inputs)

        for way in (_empirical, _by_cotangent):
            assert way(model, batch, forward=forward).keys() == {'1'}

    def test_module_run_without_gradients(self):
        model = nn.ModuleList([nn.Linear(D, D), nn.Linear(D, 2)]).double()

        def forward(inputs):
            with torch.no_grad():
                inputs = model[0](inputs)
            return model[1](inputs)

        assert _empirical(model, batch_of(double(N, D)), forward=forward).keys() == {
            '1'
        }


class Checkpointed(nn.Module):
    """Two layers, whose activations are computed again in the backward pass."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.first, self.second = nn.Linear(D, D), nn.Linear(D, D)
        self.head = nn.Linear(D, 2)
        self.use_reentrant = use_reentrant

    def _block(self, x):
        # A view that is changed in place, so that the hook hands out a copy.
        return torch.tanh(self.second(self.first(x)[:, :2].mul_(2.0)))

    def forward(self, x):
        x = 1.0 * x
        if self.use_reentrant is None:
            x = self._block(x)
        else:
            x.requires_grad_()
            x = checkpoint(self._block, x, use_reentrant=self.use_reentrant)
        return self.head(x)


class TestCheckpointing:
    @both
    @pytest.mark.parametrize('way', [_empirical, _by_cotangent])
    def test_what_runs_again_adds_nothing(self, approximation, way):
        torch.manual_seed(0)
        model, batch = Checkpointed(None).double(), batch_of(double(N, R, D))
        expected = way(model, batch, approximation)
        model.use_reentrant = False
        found = way(model, batch, approximation)
        assert found.keys() == {'first', 'second', 'head'}
        _assert_same(found, expected)

    def test_the_gradient_stays_the_same(self):
        torch.manual_seed(0)
        model, batch = Checkpointed(False).double(), batch_of(double(N, R, D))
        model(batch['inputs']).square().sum().backward()
        expected = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        with _capture(model, batch) as capture:
            outputs = model(batch['inputs'])
            capture.backward_to_layers(outputs, _cotangent(outputs))
            outputs.square().sum().backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)

    def test_reentrant_layers_are_out_of_reach_and_said_to_be(self, caplog):
        model, batch = Checkpointed(True).double(), batch_of(double(N, R, D))
        settings = Settings(approximation='expand')
        preconditioner = KFACPreconditioner(model, settings)
        with preconditioner.capture(batch) as capture:
            outputs = model(batch['inputs'])
            capture.watch_backward()
            outputs.square().sum().backward()
        assert capture.sums().keys() == {'head'}
        with caplog.at_level(logging.WARNING):
            preconditioner.update_factors(capture, N, 1.0)
        assert 'layer first' in caplog.text
        assert 'use_reentrant=False' in caplog.text


class TestCalls:
    @both
    def test_input_by_keyword(self, approximation):
        layer, batch = nn.Linear(D, D).double(), batch_of(double(N, R, D))
        expected = _empirical(layer, batch, approximation)
        found = _empirical(layer, batch, approximation, lambda x: layer(input=x))
        _assert_same(found, expected)

    @both
    @pytest.mark.parametrize('by_keyword', [False, True])
    def test_output_size(self, approximation, by_keyword):
        """Of two sizes with the same input, given in the call or to the module."""
        plain, larger = (
            nn.ConvTranspose2d(2, 3, 3, 2, output_padding=n).double() for n in (0, 1)
        )
        larger.load_state_dict(plain.state_dict())
        batch = batch_of(double(N, 2, 4, 3))

        def forward(x):
            size = larger(x).shape[2:]
            return plain(x, output_size=size) if by_keyword else plain(x, size)

        found = _empirical(plain, batch, approximation, forward)
        _assert_same(found, _empirical(larger, batch, approximation))
        positions = 10 * 8 if approximation == 'expand' else 1
        assert found[''].input_count == N * positions

    @both
    def test_single_vector(self, approximation):
        """A learnt vector through a linear layer has no example and no position."""
        layer, batch = nn.Linear(D, D).double(), batch_of(double(N, D))
        vector = double(D)
        sums = _empirical(layer, batch, approximation, lambda x: layer(vector) + x)['']
        ones = torch.cat([vector, torch.ones(1)])
        torch.testing.assert_close(sums.inputs[0], torch.outer(ones, ones))

    @both
    def test_convolution_over_padded_tokens(self, approximation):
        """Positions that are padding enter neither factor."""
        model = nn.Sequential(nn.Conv1d(D, 2, 3, padding=1)).double()
        tokens = torch.tensor([[1, 2, 3, 0, 0], [1, 0, 0, 0, 0]])
        values = double(2, D, 5)
        batch = {
            'inputs': values,
            'targets': tokens,
            'weights': (tokens != 0).double(),
        }
        sums = _empirical(model, batch, approximation)['0']
        outputs = model(values).detach().transpose(1, 2)
        padded = nn.functional.pad(values, (1, 1))
        windows = padded.unfold(2, 3, 1).permute(0, 2, 1, 3).flatten(2)
        rows = torch.cat([windows, torch.ones(2, 5, 1)], -1)
        inputs = [rows[0, :3], rows[1, :1]]
        gradients = [2 * outputs[0, :3], 2 * outputs[1, :1]]
        if approximation == 'reduce':
            inputs = [rows.mean(0, keepdim=True) for rows in inputs]
            gradients = [rows.sum(0, keepdim=True) for rows in gradients]
        inputs, gradients = torch.cat(inputs), torch.cat(gradients)
        torch.testing.assert_close(sums.inputs[0], inputs.T @ inputs)
        torch.testing.assert_close(sums.gradients[0], gradients.T @ gradients)
        assert sums.input_count == len(inputs)


class TestHooks:
    def test_none_are_left(self):
        model, batch = _mlp(), batch_of(double(N, R, D))
        with _capture(model, batch) as capture:
            outputs = model(batch['inputs'])
            assert _hooks(model)
            capture.watch_backward()
            outputs.sum().backward(retain_graph=True)
        assert not _hooks(model)
        before = capture.sums()
        outputs.sum().backward()
        model(batch['inputs']).sum().backward()
        _assert_same(capture.sums(), before)

    def test_none_are_left_after_an_error(self):
        model, batch = _mlp(), batch_of(double(N, R, D))
        with pytest.raises(RuntimeError), _capture(model, batch):
            model(double(N, D + 1))
        assert not _hooks(model)


class GraphModel(nn.Module):
    """Layers on nodes, edges and graphs."""

    def __init__(self):
        super().__init__()
        self.node, self.edge = nn.Linear(6, 2), nn.Linear(3, 2)
        self.head = nn.Linear(2, 2)
        self.double()

    def forward(self, graphs):
        nodes, edges = self.node(graphs.nodes), self.edge(graphs.edges)
        pooled = nodes.new_zeros(len(graphs.n_node), 2)
        pooled = pooled.index_add(0, graphs.graph_of_node(), nodes)
        return self.head(pooled + edges.sum(0))


class TestAmbiguousRows:
    """Rows that fit nodes as well as edges: the layer is left out, and it is said."""

    def _batch(self):
        graphs = Graphs(
            double(7, 6), double(7, 3), torch.tensor([2, 3, 2]), torch.tensor([4, 2, 1])
        )
        return {'inputs': graphs, 'targets': torch.zeros(3, 2)}

    @both
    def test_other_layers_go_on(self, approximation):
        for way in (_empirical, _by_cotangent):
            assert way(GraphModel(), self._batch(), approximation).keys() == {'head'}

    @both
    def test_the_reason_is_logged_once(self, approximation, caplog):
        model, batch = GraphModel(), self._batch()
        preconditioner = KFACPreconditioner(
            model, Settings(approximation=approximation)
        )
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                with preconditioner.capture(batch) as capture:
                    outputs = model(batch['inputs'])
                    capture.watch_backward()
                    outputs.square().sum().backward()
                preconditioner.update_factors(capture, 2.0, 1.0)
                preconditioner.update_inverses()
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 2
        for name, message in zip(('node', 'edge'), messages, strict=True):
            assert f'layer {name}' in message
            assert '7 rows' in message
        assert preconditioner.counters['factor_updates'] == 2


class _Branches(nn.Module):
    """Two branches with a layer each behind a common one, and one of its own input."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(D, 6)
        self.left = nn.Linear(6, 6)
        self.right = nn.Linear(6, 6)
        self.aside = nn.Linear(D, 6)
        self.head = nn.Linear(6, 3)
        self.unused = nn.Linear(D, 3)

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        self.unused(x)
        branches = torch.tanh(self.left(hidden)) * self.right(hidden)
        return self.head(branches + torch.tanh(self.aside(x))).sum(1)


@both
def test_gradients_that_others_lead_past_are_not_asked_for(approximation, monkeypatch):
    """Held all at once they would take as much memory as the layers' outputs."""
    torch.manual_seed(0)
    model, batch = _Branches().double(), batch_of(double(N, R, D))
    asked = []
    grad = torch.autograd.grad

    def recorded(outputs, inputs, *args, **kwargs):
        asked.append(len(inputs))
        return grad(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, 'grad', recorded)
    sums = _by_cotangent(model, batch, approximation)
    # Where the two inputs of the sum come from, and what leads nowhere.
    assert asked == [3]
    assert set(sums) == {'first', 'left', 'right', 'aside', 'head'}
    _assert_same(sums, _empirical(model, batch, approximation))


def test_hooks_of_the_pass_to_the_layers_are_gone_after_it():
    torch.manual_seed(0)
    model, batch = _Branches().double(), batch_of(double(N, R, D))
    with _capture(model, batch) as capture:
        outputs = model(batch['inputs'])
        capture.backward_to_layers(outputs, _cotangent(outputs))
        before = {name: found.gradients for name, found in capture.sums().items()}
        outputs.square().sum().backward()
    for name, found in capture.sums().items():
        assert torch.equal(found.gradients, before[name])
