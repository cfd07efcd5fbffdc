"""Who inverts which factor, and what is exchanged, without a second process."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import nn

from submission.pytorch import communication, sharding, spectral
from submission.pytorch.approximations import FactorSums
from submission.pytorch.factors import KroneckerFactor
from submission.pytorch.layers import assign_parameters
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.pytorch.sharding import (
    balanced_owners,
    direction_cost,
    preconditioning_cost,
    sharded_inverses,
)
from submission.settings import Settings

from .curvature import double


class TestBalancedOwners:
    def test_longest_first(self):
        assert balanced_owners([4, 7, 8, 5, 6], 2) == [0, 1, 0, 0, 1]

    def test_more_processes_than_work(self):
        assert balanced_owners([1, 2], 4) == [1, 0]

    @hypothesis.given(st.lists(st.integers(1, 10**9), max_size=40), st.integers(1, 8))
    def test_within_a_third_of_the_best(self, costs, n_ranks):
        """Graham's bound, against what no assignment can be better than."""
        owners = balanced_owners(costs, n_ranks)
        assert len(owners) == len(costs)
        loads = [0] * n_ranks
        for cost, owner in zip(costs, owners, strict=True):
            loads[owner] += cost
        best = max(sum(costs) / n_ranks, *costs, 0, 0)
        if len(costs) > n_ranks:
            # Two of the largest that are one more than the processes share one.
            longest = sorted(costs, reverse=True)
            best = max(best, longest[n_ranks - 1] + longest[n_ranks])
        assert max(loads) <= (4 / 3 - 1 / (3 * n_ranks)) * best + 1e-6


class Network:
    """Stands for three processes, of which this is one, in alphabetical order."""

    def __init__(self, monkeypatch, rank, sent=None):
        self.sent = {} if sent is None else sent
        self.reduced = []
        monkeypatch.setattr(communication, 'is_distributed', lambda: True)
        monkeypatch.setattr(communication, 'world_size', lambda: 3)
        monkeypatch.setattr(communication, 'rank', lambda: rank)
        monkeypatch.setattr(communication, 'broadcast', self.broadcast)
        monkeypatch.setattr(communication, 'all_reduce_sum', self.all_reduce_sum)
        monkeypatch.setattr(communication, 'all_gather', self.all_gather)

    def all_gather(self, value, what):
        self.sent.setdefault(communication.rank(), []).append(value.clone())
        return [value] * 3

    def broadcast(self, value, source, what):
        if source == communication.rank():
            self.sent[source] = value.clone()
        elif source in self.sent:
            value.copy_(self.sent[source])
        else:
            value.zero_()

    def all_reduce_sum(self, value, what):
        self.reduced.append(value)
        return 3 * value


def _factor(groups, dim, seed):
    root = double(groups, dim, dim, seed=seed)
    return KroneckerFactor(root @ root.mT, averaged_weight=0.5)


class TestShardedInverses:
    shapes = ((1, 6), (1, 5), (2, 4), (1, 3), (1, 6), (1, 1))

    def _factors(self):
        return [_factor(*shape, seed=seed) for seed, shape in enumerate(self.shapes)]

    def test_all_receive_what_one_process_computes(self, monkeypatch):
        expected = sharded_inverses(self._factors(), 0.1)
        sent = {}
        for rank in range(3):
            Network(monkeypatch, rank, sent)
            sharded_inverses(self._factors(), 0.1)
        assert sent.keys() == {0, 1, 2}
        for rank in range(3):
            Network(monkeypatch, rank, sent)
            found = sharded_inverses(self._factors(), 0.1)
            for left, right in zip(found, expected, strict=True):
                assert torch.equal(left.matrix, right.matrix)
                assert torch.equal(left.scale, right.scale)
                assert left.succeeded
                assert right.succeeded

    def test_each_inverts_its_own_alone(self, monkeypatch):
        seen = []
        compute = sharding.damped_inverses

        def recording(factors, *options):
            seen.append([tuple(factor.shape) for factor in factors])
            return compute(factors, *options)

        monkeypatch.setattr(sharding, 'damped_inverses', recording)
        for rank in range(3):
            Network(monkeypatch, rank)
            sharded_inverses(self._factors(), 0.1)
        # Costs 216, 125, 128, 27, 216, 1 to three processes.
        assert seen == [
            [(1, 6, 6), (1, 3, 3)],
            [(1, 6, 6), (1, 1, 1)],
            [(1, 5, 5), (2, 4, 4)],
        ]

    def test_half_of_each_inverse_travels(self, monkeypatch):
        sent = {}
        for rank in range(3):
            Network(monkeypatch, rank, sent)
            sharded_inverses(self._factors(), 0.1)
        halves = [groups * dim * (dim + 1) // 2 for groups, dim in self.shapes]
        # With each, whether it succeeded and its scale.
        assert sum(map(len, sent.values())) == sum(halves) + 2 * len(halves)


def _inverted(layer, dim, seed):
    """State of a factor whose inverse has this or that root."""
    root = double(layer.groups, dim, dim, seed=seed).tril().to(layer.weight.dtype)
    return {'inverted_scale': root.new_ones(()), 'inverse_root': root}


class TestInShares:
    """What is computed for each layer in every step."""

    def _preconditioner(self, rule):
        model = nn.ModuleDict(
            {
                'wide': nn.Linear(9, 2),
                'precise': nn.Linear(4, 3).double(),
                'grouped': nn.Conv2d(4, 6, 3, groups=2),
                'plain': nn.Linear(5, 5, bias=False),
                'other': nn.Linear(5, 5),
            }
        )
        preconditioner = KFACPreconditioner(model, Settings(first_order_rule=rule))
        preconditioner.load_state_dict(
            {
                'layers': {
                    layer.name: {
                        side: _inverted(layer, dim, seed)
                        for seed, (side, dim) in enumerate(
                            (('a', layer.input_dim), ('b', layer.output_dim))
                        )
                    }
                    for layer in preconditioner.layers
                },
                'unreached': [],
                'counters': preconditioner.counters,
            }
        )
        return preconditioner

    def _found(self, rule, without=()):
        preconditioner = self._preconditioner(rule)
        given = {
            name: double(*parameter.shape, seed=len(name)).to(parameter.dtype)
            for layer in preconditioner.layers
            for name, parameter in zip(
                layer.parameter_names, layer.parameters, strict=True
            )
            if name not in without
        }
        layers = preconditioner.layers
        if rule == 'spectral':
            return preconditioner.spectral_directions(layers, given, given)
        gradients = [
            (layer, [given[name] for name in layer.parameter_names]) for layer in layers
        ]
        outcomes = preconditioner.precondition_all(gradients)
        return {
            name: part
            for layer, parts in zip(layers, outcomes, strict=True)
            for name, part in zip(layer.parameter_names, parts, strict=True)
        }

    @pytest.mark.parametrize(
        ('rule', 'without'),
        [('spectral', ()), ('spectral', ('wide.bias',)), ('nadamw', ())],
    )
    def test_all_receive_what_one_process_computes(self, monkeypatch, rule, without):
        expected = self._found(rule, without)
        messages = []
        for rank in range(3):
            network = Network(monkeypatch, rank)
            self._found(rule, without)
            # One for each precision, of one length in all processes.
            assert len(network.sent[rank]) == 2
            messages.append(network.sent[rank])
        for rank in range(3):
            Network(monkeypatch, rank)
            gathered = iter(zip(*messages, strict=True))
            monkeypatch.setattr(
                communication, 'all_gather', lambda value, what, g=gathered: next(g)
            )
            found = self._found(rule, without)
            assert found.keys() == expected.keys()
            for name, part in found.items():
                torch.testing.assert_close(part, expected[name])
        # Something has been computed.
        given = {n: double(*part.shape, seed=len(n)) for n, part in expected.items()}
        for name, part in expected.items():
            assert not torch.allclose(part.double(), given[name], rtol=0.1)

    def test_each_computes_its_own_alone(self, monkeypatch):
        computed, compute = [], spectral.polar_factors

        def recording(matrices):
            computed.append(len(matrices))
            return compute(matrices)

        monkeypatch.setattr(spectral, 'polar_factors', recording)
        n_matrices = []
        for rank in range(3):
            computed.clear()
            Network(monkeypatch, rank)
            self._found('spectral')
            n_matrices.append(sum(computed))
        # Five layers, one of them with two groups.
        assert sum(n_matrices) == 6
        assert 0 < min(n_matrices) <= max(n_matrices) < 4

    def test_costs(self):
        # Twice 3 x 3 times 3 x 7 and that times 7 x 7; six times the Gram matrix, its
        # square and both with the matrix again.
        roots = 2 * (3 * 3 * 7 + 3 * 7 * 7)
        iteration = 3 * 3 * 7 + 3 * 3 * 3 + 3 * 3 * 7
        for shape in ((3, 7), (7, 3)):
            assert direction_cost(2, *shape) == 2 * (roots + 6 * iteration)
            assert 2 * preconditioning_cost(2, *shape) == 2 * roots


class TestSumOverProcesses:
    def _layers(self):
        model = nn.Sequential(
            nn.Linear(3, 2), nn.Conv2d(4, 6, 3, groups=2), nn.Linear(2, 5).double()
        )
        layers, _ = assign_parameters(model, 100)
        return layers

    def _sums(self, layers):
        sums = {}
        for seed, layer in enumerate(layers):
            a = double(layer.groups, layer.input_dim, layer.input_dim, seed=seed)
            b = double(layer.groups, layer.output_dim, layer.output_dim, seed=seed)
            sums[layer.name] = FactorSums(
                a + a.mT, torch.tensor(7.0, dtype=torch.float64), b + b.mT
            ).to(layer.weight.dtype)
        return sums

    def test_one_operation_for_each_precision(self, monkeypatch):
        network, layers = Network(monkeypatch, 0), self._layers()
        sums = self._sums(layers)
        totals, usable = sharding.sum_over_processes(layers, sums, {})
        assert [buffer.dtype for buffer in network.reduced] == [
            torch.float32,
            torch.float64,
        ]
        halves = sum(
            layer.groups * dim * (dim + 1) // 2
            for layer in layers
            for dim in (layer.input_dim, layer.output_dim)
        )
        n_sent = sum(map(len, network.reduced))
        assert n_sent == halves + 3 * len(layers)
        assert usable.all()
        for name, total in totals.items():
            assert torch.equal(total.inputs, 3 * sums[name].inputs)
            assert torch.equal(total.gradients, 3 * sums[name].gradients)
            assert total.input_count == 21

    @pytest.mark.parametrize('name', ['0', '1', '2'])
    def test_layer_that_was_not_reached(self, monkeypatch, name):
        """It is sent as zeros, in the same buffers."""
        layers = self._layers()
        whole = Network(monkeypatch, 0)
        sharding.sum_over_processes(layers, self._sums(layers), {})
        part = Network(monkeypatch, 0)
        sums = self._sums(layers)
        del sums[name]
        totals, usable = sharding.sum_over_processes(layers, sums, {})
        assert list(map(len, part.reduced)) == list(map(len, whole.reduced))
        not_usable = [n for n, u in zip(totals, usable, strict=True) if not u]
        assert not_usable == [name]
        assert not totals[name].inputs.any()

    def test_ambiguous_layer(self, monkeypatch):
        layers = self._layers()
        Network(monkeypatch, 0)
        totals, usable = sharding.sum_over_processes(
            layers, self._sums(layers), {'1': 'nodes or edges'}
        )
        not_usable = [n for n, u in zip(totals, usable, strict=True) if not u]
        assert not_usable == ['1']


def test_no_layers_in_several_processes(monkeypatch):
    """There is nothing to exchange, and no process waits for the others."""
    monkeypatch.setattr(communication, 'is_distributed', lambda: True)
    sums, usable = sharding.sum_over_processes([], {}, {})
    assert sums == {}
    assert len(usable) == 0
