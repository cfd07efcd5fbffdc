import importlib

import pytest
import torch
from torch import nn

from experiments.peers.ours import Ours
from experiments.peers.pytorch_method import tensor_bytes
from experiments.step_time.variants import variant_name

from .methods import tiny_task

# Distribution's module to the module here.
PEERS = {
    'asdl': 'asdfghjkl_peer',
    'singd': 'singd_peer',
    'curvlinops': 'curvlinops_peer',
    'pytorch_optimizer': 'pytorch_optimizer_peers',
}


def _peer(library):
    pytest.importorskip(library, reason='The library is in the extra "peers".')
    return importlib.import_module(f'experiments.peers.{PEERS[library]}')


def _our_factors(task, approximation):
    method = Ours(task, variant_name(approximation, 'empirical'))
    method.take()
    state = method._training.state[0]['preconditioner'].state_dict()
    return {
        name: tuple(
            sides[side]['moving_average'][0] / sides[side]['averaged_weight']
            for side in 'ab'
        )
        for name, sides in state['layers'].items()
    }


@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.parametrize('library', PEERS)
def test_each_method_trains(library):
    peer, task = _peer(library), tiny_task('pytorch')
    assert peer.fisher_type(task) in ('monte_carlo', 'empirical')
    for make in peer.methods(task).values():
        method = make(task)
        before, after = method.train(3)
        assert method.state_bytes() > 0
        # curvlinops does not train.
        assert after < before or 'plain' not in method.interval


def test_eigenbases_change_in_statistics_steps_alone():
    method = _peer('pytorch_optimizer').Soap(tiny_task('pytorch'))
    method.train(1)
    weight = method.model.first.weight
    for _ in range(20):
        before = [q.clone() for q in method.optimizers[0].state[weight]['Q']]
        kind, _ = method.take()
        after = method.optimizers[0].state[weight]['Q']
        same = all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        assert same == (kind == 'plain')


@pytest.mark.parametrize('approximation', ['expand', 'reduce'])
def test_curvlinops_has_our_factors(approximation):
    peer, task = _peer('curvlinops'), tiny_task('pytorch')
    method = peer.Curvlinops(task, approximation, fisher_type='empirical')
    method.take()
    for name, (a, b) in _our_factors(task, approximation).items():
        theirs = method.operator
        key = f'model.{name}'
        torch.testing.assert_close(theirs._input_covariances[key], a)
        torch.testing.assert_close(theirs._gradient_covariances[key], b)


@pytest.mark.parametrize('approximation', ['expand', 'reduce'])
def test_singd_has_our_factors(approximation):
    peer, task = _peer('singd'), tiny_task('pytorch')
    method = peer.Singd(task, approximation)
    method.backward(task.probe)
    for name, (a, b) in _our_factors(task, approximation).items():
        # Of inverse factors that begin at the identity.
        torch.testing.assert_close(method.singd.H_Ks[name].to_dense(), a)
        torch.testing.assert_close(method.singd.H_Cs[name].to_dense(), b)


@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_asdfghjkl_inverts_our_factors():
    peer, task = _peer('asdl'), tiny_task('pytorch')
    method = peer.Asdfghjkl(task, 'empirical')
    method.take()
    factors = _our_factors(task, 'expand')
    a, b = factors['second']
    # It adds up over positions what we average over them.
    a = 3 * a
    pi = (a.trace() / len(a) / (b.trace() / len(b))).sqrt()
    found = method.model.second.fisher.kron
    for factor, damping, inverse in (
        (a, peer._DAMPING**0.5 * pi, found.A_inv),
        (b, peer._DAMPING**0.5 / pi, found.B_inv),
    ):
        torch.testing.assert_close(
            inverse @ (factor + damping * torch.eye(len(factor))),
            torch.eye(len(factor)),
        )


def test_bytes_of_a_tensor_count_once_and_those_of_parameters_not():
    class Holder:
        def __init__(self, tensor):
            self.tensor, self.itself = tensor, self

    shared = torch.zeros(6)
    root = {
        'a': shared,
        'b': [shared[:2], Holder(shared), Holder(torch.zeros(5))],
        'c': nn.Parameter(torch.zeros(100)),
        'd': 1.0,
    }
    assert tensor_bytes(root) == 4 * (6 + 5)
