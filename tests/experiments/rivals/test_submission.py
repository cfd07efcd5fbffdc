"""Every rival trains, resumes, and evaluates where it should."""

import collections
import io
import typing

import pytest
import torch

pytest.importorskip('pytorch_optimizer', reason='It is in the extra "peers".')
pytest.importorskip('schedulefree', reason='It is in the extra "peers".')

from experiments.rivals import pytorch_submission
from experiments.rivals.hidden_weights import hidden_weights_and_rest
from experiments.rivals.optimizers import PRECONDITIONER_INTERVAL, Optimizers
from experiments.rivals.settings import RivalName, RivalSettings
from tests.submission.tiny_workload import TinyWorkload
from workloads_overrides import registry

RIVALS = typing.get_args(RivalName)
STEPS = 40


def point(optimizer, **changes):
    values = {
        'optimizer': optimizer,
        'learning_rate': 0.02,
        'one_minus_beta1': 0.1,
        'beta2': 0.95,
        'weight_decay': 0.0,
        'warmup_factor': 0.0,
        'step_hint_factor': 1.0,
        **changes,
    }
    return collections.namedtuple('Hyperparameters', values)(**values)


def start(optimizer, **options):
    workload = TinyWorkload(**options)
    model, _ = workload.init_model_fn((0, 1))
    state = pytorch_submission.init_optimizer_state(
        workload, model, None, point(optimizer), (0, 1)
    )
    return workload, model, state


def train(workload, model, state, steps):
    for step in steps:
        state, model, _ = pytorch_submission.update_params(
            workload,
            model,
            None,
            None,
            None,
            workload.batch(step),
            workload.loss_type,
            state,
            [],
            step,
            (17, step),
        )


def prepare_for_eval(workload, model, state):
    pytorch_submission.prepare_for_eval(
        workload, model, None, None, None, None, state, [], 0, (0, 0)
    )


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


@pytest.mark.parametrize('optimizer', RIVALS)
def test_it_trains(optimizer):
    workload, model, state = start(optimizer)
    batch = workload.batch(1000, n=256)
    before = workload.loss(model, batch)
    train(workload, model, state, range(STEPS))
    prepare_for_eval(workload, model, state)
    assert workload.loss(model, batch) < 0.9 * before


@pytest.mark.parametrize('optimizer', RIVALS)
def test_it_resumes_bit_for_bit(optimizer):
    workload, model, state = start(optimizer)
    train(workload, model, state, range(13))
    file = io.BytesIO()
    saved = {name: value.state_dict() for name, value in state.items()}
    torch.save({'model': model.state_dict(), 'state': saved}, file)
    train(workload, model, state, range(13, 25))

    file.seek(0)
    # As the runner reads checkpoints.
    loaded = torch.load(file, weights_only=True)
    _, resumed, resumed_state = start(optimizer)
    resumed.load_state_dict(loaded['model'])
    for name, value in resumed_state.items():
        value.load_state_dict(loaded['state'][name])
    train(workload, resumed, resumed_state, range(13, 25))
    torch.testing.assert_close(parameters(resumed), parameters(model), rtol=0, atol=0)


def test_schedule_free_evaluates_at_its_average():
    workload, model, state = start('schedule_free_adamw')
    train(workload, model, state, range(5))
    trained_at = parameters(model)
    prepare_for_eval(workload, model, state)
    assert (parameters(model) - trained_at).abs().max() > 1e-4
    prepare_for_eval(workload, model, state)
    state['optimizers'].set_training(True)
    torch.testing.assert_close(parameters(model), trained_at)


def test_muon_leaves_vectors_and_the_output_layer_to_adamw():
    _, model, state = start('muon')
    groups = {
        name: {id(p) for group in part.param_groups for p in group['params']}
        for name, (part, _) in state['optimizers'].parts.items()
    }
    assert groups['muon'] == {id(model.first.weight), id(model.second.weight)}
    assert groups['muon'] | groups['adamw'] == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    'name', [name for name in registry.WORKLOADS if '_s16' not in name]
)
def test_muon_leaves_the_output_layer_of_every_workload_to_adamw(name):
    workload = registry.load_workload(name, 'pytorch')
    model, _ = workload.init_model_fn((0, 1))
    hidden, rest = hidden_weights_and_rest(model, workload.is_output_params)
    assert len(hidden) + len(rest) == len(list(model.parameters()))
    names = {id(p): name for name, p in model.named_parameters()}
    outputs = [n for n in names.values() if workload.is_output_params(n)]
    assert len(outputs) == 2
    assert not {*outputs} & {names[id(p)] for p in hidden}
    left = {names[id(p)] for p in rest if p.ndim > 1} - {*outputs}
    assert left <= {'conv_patch_extract.weight'}


def test_soap_begins_with_a_parameter_at_its_first_gradient():
    workload, model, state = start('soap', zero_head=True)
    soap, _ = state['optimizers'].parts['soap']
    train(workload, model, state, range(2))
    # The step that begins with a parameter does not move it.
    assert model.head.weight in soap.state
    assert model.second.weight not in soap.state
    train(workload, model, state, range(2, 4))
    left, right = soap.state[model.second.weight]['Q']
    for basis in (left, right):
        assert (basis.abs() > 0.99).sum() < len(basis)
    assert all(p in soap.state for p in model.parameters())


@pytest.mark.parametrize('root', [2, 4])
def test_shampoo_takes_its_root_of_the_statistics(root):
    # Below 512 entries the library takes a matrix for a vector.
    model = torch.nn.Linear(24, 32, bias=False)
    settings = RivalSettings.from_hyperparameters(point('shampoo', shampoo_root=root))
    optimizers = Optimizers(model, settings, 100, TinyWorkload().is_output_params)
    for step in range(PRECONDITIONER_INTERVAL):
        model.weight.grad = torch.randn(32, 24)
        optimizers.step(step)
    shampoo, _ = optimizers.parts['shampoo']
    preconditioner = shampoo.state[model.weight]['pre_conditioner']
    assert [len(statistic) for statistic in preconditioner.statistics] == [32, 24]
    for statistic, inverse_root in zip(
        preconditioner.statistics, preconditioner.pre_conditioners, strict=True
    ):
        product = torch.linalg.matrix_power(inverse_root, root) @ statistic
        torch.testing.assert_close(
            product, torch.eye(len(statistic)), rtol=0, atol=0.05
        )
