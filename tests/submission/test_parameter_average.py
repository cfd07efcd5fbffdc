"""Evaluation gets averaged parameters, and training does not notice."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from submission.averaging import newest_share
from submission.pytorch.parameter_average import ParameterAverage

from .test_running_statistics import BatchNorm, Model, ReassigningNorm
from .tiny_workload import TinyWorkload
from .training import hyperparameters, init, prepare_for_eval, train

POWER, STEPS = 3, 6


def step_weights(n_steps, power=POWER):
    """t (t + 1) ... (t + power - 1), by definition, of the step t counted from 1."""
    return [math.prod(range(t, t + power)) for t in range(1, n_steps + 1)]


@hypothesis.given(power=st.integers(0, 20), steps=st.integers(1, 50))
def test_weights_grow_with_the_power_of_the_step(power, steps):
    values = np.random.default_rng(0).normal(size=steps)
    average = math.nan
    for step, value in enumerate(values):
        share = newest_share(step, power)
        average = value if share == 1.0 else average + share * (value - average)
    weights = step_weights(steps, power)
    expected = sum(w * value for w, value in zip(weights, values, strict=True))
    assert average == pytest.approx(expected / sum(weights), rel=1e-9, abs=1e-12)


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def weighted(history):
    """The mean of what a model held after each step."""
    weights = step_weights(len(history))
    return {
        name: sum(
            w * held[name].double() for w, held in zip(weights, history, strict=True)
        )
        / sum(weights)
        for name in history[0]
    }


@pytest.mark.parametrize('norm', [BatchNorm, ReassigningNorm])
@pytest.mark.parametrize('approximation', ['none', 'expand'])
def test_evaluation_gets_the_mean_and_training_goes_on(norm, approximation):
    workload = TinyWorkload()
    point = hyperparameters(approximation=approximation)
    averaging = hyperparameters(approximation=approximation, averaging_power=POWER)
    torch.manual_seed(0)
    models = [Model(norm()), Model(norm())]
    models[1].load_state_dict(models[0].state_dict())
    plain, expected = init(workload, point, models[0])
    state, model = init(workload, averaging, models[1])
    history = []
    for step in range(STEPS):
        train(workload, point, plain, expected, [step])
        train(workload, averaging, state, model, [step])
        assert_same(model.state_dict(), expected.state_dict())
        history.append(copied(model))
        if step % 2:
            # More than once, as where one evaluation follows another.
            prepare_for_eval(state, model)
            prepare_for_eval(state, model)
            means, held = weighted(history), model.state_dict()
            statistics = [name for name in held if 'running' in name]
            assert statistics
            for name in [*dict(model.named_parameters()), *statistics]:
                torch.testing.assert_close(held[name], means[name].float(), msg=name)
                assert not torch.equal(held[name], history[-1][name]), name


def test_without_it_nothing_is_averaged():
    state, _ = init(TinyWorkload(), hyperparameters())
    assert 'average' not in state


def test_frozen_parameters_stay_out():
    workload, point = TinyWorkload(), hyperparameters(averaging_power=POWER)
    model, _ = workload.init_model_fn((0, 1))
    model.second.weight.requires_grad = False
    state, _ = init(workload, point, model)
    train(workload, point, state, model, range(3))
    assert 'second.weight' not in state['average'].state_dict()['kept']
    frozen = model.second.weight.clone()
    prepare_for_eval(state, model)
    assert torch.equal(model.second.weight, frozen)


@pytest.mark.parametrize('evaluated', [False, True])
def test_restored_it_goes_on_bit_for_bit(tmp_path, evaluated):
    """Also where the checkpoint holds the parameters that were evaluated."""
    workload, point = TinyWorkload(), hyperparameters(averaging_power=POWER)
    state, model = init(workload, point)
    train(workload, point, state, model, range(4))
    if evaluated:
        prepare_for_eval(state, model)
    path = tmp_path / 'checkpoint'
    values = {key: value.state_dict() for key, value in state.items()}
    torch.save({'model': model.state_dict(), 'state': values}, path)

    saved = torch.load(path, weights_only=True)
    resumed, other = init(workload, point)
    other.load_state_dict(saved['model'])
    for key, value in resumed.items():
        value.load_state_dict(saved['state'][key])
    for each, held in ((state, model), (resumed, other)):
        train(workload, point, each, held, range(4, 7))
    assert_same(other.state_dict(), model.state_dict())
    prepare_for_eval(state, model)
    prepare_for_eval(resumed, other)
    assert_same(other.state_dict(), model.state_dict())


def test_averages_of_another_model_are_refused():
    small, large = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2)
    averages = [ParameterAverage(model, 1.0).state_dict() for model in (small, large)]
    with pytest.raises(ValueError, match="averages 'bias', which the model lacks"):
        ParameterAverage(small, 1.0).load_state_dict(averages[1])
    with pytest.raises(ValueError, match="no average of 'bias', which the model has"):
        ParameterAverage(large, 1.0).load_state_dict(averages[0])
