import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.workloads_overrides.double_precision import double_precision
from tests.workloads_overrides.ogbg_chembl.small_data import small_arrays
from workloads_overrides import flax_parameters, spec
from workloads_overrides.ogbg_chembl import dataset as dataset_lib
from workloads_overrides.ogbg_chembl import jax_workload, pytorch_workload

KEY = jax.random.PRNGKey(0)
TRAIN = spec.ForwardPassMode.TRAIN


@pytest.fixture(scope='module')
def small_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    np.savez(folder / dataset_lib.FILE_NAME, **small_arrays())
    return str(folder)


@pytest.fixture(scope='module')
def initialised():
    workload = jax_workload.OgbgChemblWorkload()
    params, state = workload.init_model_fn(KEY)
    assert state is None
    return workload, params


@pytest.fixture(scope='module')
def batch(small_dir):
    workload = jax_workload.OgbgChemblWorkload()
    return next(workload._build_input_queue(KEY, 'train', small_dir, 16))


@pytest.mark.parametrize(
    'name',
    [f'OgbgChembl{variant}Workload' for variant in ('', 'Full', 'Gelu')],
)
def test_parameters_are_those_of_the_pytorch_workload(name):
    reference = getattr(pytorch_workload, name)()
    model, _ = reference.init_model_fn(np.array([0, 1]))
    expected = flax_parameters.gnn_params(model.state_dict())
    workload = getattr(jax_workload, name)()
    # Nothing is computed: only the shapes matter.
    params, _ = jax.eval_shape(workload.init_model_fn, KEY)
    shapes = workload.param_shapes
    assert jax.tree.map(lambda s: s.shape_tuple, shapes) == jax.tree.map(
        np.shape, expected
    )
    assert jax.tree.structure(params) == jax.tree.structure(shapes)
    # The kinds of parameter as well, through the same mapping of names.
    kinds = {
        name: np.full(shape, reference.model_params_types[name].value)
        for name, shape in reference.param_shapes.items()
    }
    found = jax.tree.map(lambda kind: kind.value, workload.model_params_types)
    assert found == jax.tree.map(np.max, flax_parameters.gnn_params(kinds))
    outputs = [key for key in params if workload.is_output_params(key)]
    assert outputs == [
        flax_parameters.gnn_decoder(
            reference.num_message_passing_steps, len(reference.hidden_dims)
        )
    ]
    assert workload.activation_fn_name == reference.activation_fn_name
    # The rest of the contract is shared.
    assert workload.validation_target_value == reference.validation_target_value
    assert workload.step_hint == reference.step_hint


def test_same_key_same_parameters(initialised):
    workload, first = initialised
    # Compiled once for both.
    init = jax.jit(lambda key: workload.init_model_fn(key)[0])
    again, other = init(KEY), init(jax.random.PRNGKey(1))
    kernels = [params['Dense_9']['kernel'] for params in (first, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert kernels[0].sharding.is_fully_replicated


@pytest.mark.parametrize('split', ['train', 'eval_train', 'validation', 'test'])
def test_batches_are_those_of_pytorch(small_dir, split):
    queues = [
        module.OgbgChemblWorkload()._build_input_queue(key, split, small_dir, 8)
        for module, key in ((jax_workload, KEY), (pytorch_workload, np.asarray(KEY)))
    ]
    next(queues[0])
    queues[1].skip(1)
    for _ in range(5):
        batch, expected = (next(queue) for queue in queues)
        for left, right in zip(batch['inputs'], expected['inputs'], strict=True):
            np.testing.assert_array_equal(left, right)
        for name in ('targets', 'weights'):
            np.testing.assert_array_equal(batch[name], expected[name])
            assert str(batch[name].dtype) == str(expected[name].dtype).split('.')[1]


def test_skipping_is_drawing(small_dir):
    workload = jax_workload.OgbgChemblWorkload()
    drawn, skipped = (
        workload._build_input_queue(KEY, 'train', small_dir, 8) for _ in range(2)
    )
    for _ in range(9):
        next(drawn)
    skipped.skip(9)
    np.testing.assert_array_equal(
        next(drawn)['inputs'].nodes, next(skipped)['inputs'].nodes
    )


@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('label_smoothing', [0.0, 0.1])
def test_loss_and_its_gradient_are_those_of_pytorch(masked, label_smoothing):
    rng = np.random.default_rng(0)
    logits = 30 * rng.standard_normal((9, 128))
    labels = (rng.random((9, 128)) < 0.4).astype(np.float64)
    mask = rng.random((9, 128)) < 0.3 if masked else None
    if masked:
        labels[~mask] = np.nan
    torch_logits = torch.tensor(logits, requires_grad=True)
    expected = pytorch_workload.OgbgChemblWorkload().loss_fn(
        torch.tensor(labels),
        torch_logits,
        torch.tensor(mask) if masked else None,
        label_smoothing,
    )
    expected['summed'].backward()

    def loss_fn(logits):
        loss = jax_workload.OgbgChemblWorkload().loss_fn(
            labels, logits, mask, label_smoothing
        )
        return loss['summed'], loss

    with double_precision():
        gradient, loss = jax.grad(loss_fn, has_aux=True)(jnp.asarray(logits))
    for name in ('summed', 'per_example', 'n_valid_examples'):
        # PyTorch rounds losses below that to zero.
        np.testing.assert_allclose(
            loss[name], expected[name].detach(), rtol=1e-12, atol=1e-14
        )
    np.testing.assert_allclose(gradient, torch_logits.grad, rtol=1e-10, atol=1e-14)


def test_shape_mismatch_is_an_error(initialised):
    with pytest.raises(ValueError, match='same shape'):
        initialised[0].loss_fn(np.zeros((3, 128)), np.zeros((3, 127)), np.ones((3, 1)))


def test_evaluation_is_that_of_pytorch_and_compiled_once(small_dir):
    reference = pytorch_workload.OgbgChemblWorkload()
    model, _ = reference.init_model_fn(np.array([0, 1]))
    expected = reference.eval_model(9, model, None, [0, 1], small_dir, None, 0)
    workload = jax_workload.OgbgChemblWorkload()
    workload.init_model_fn(KEY)
    params = flax_parameters.gnn_params(model.state_dict())
    for _ in range(2):
        found = workload.eval_model(9, params, None, KEY, small_dir, None, 0)
        assert found == pytest.approx(expected, rel=1e-5)
    assert workload._jitted_evaluate_batch._cache_size() == 1


def logits_of(initialised, batch, mode=TRAIN, key=KEY, **options):
    workload, params = initialised
    logits, state = workload.model_fn(params, batch, None, mode, key, True, **options)
    assert state is None
    return logits


def test_default_dropout_is_on_in_training(initialised, batch):
    default = logits_of(initialised, batch)
    np.testing.assert_array_equal(
        default, logits_of(initialised, batch, dropout_rate=0.1)
    )
    other = logits_of(initialised, batch, key=jax.random.PRNGKey(1))
    assert not np.array_equal(default, other)
    evaluated = logits_of(initialised, batch, spec.ForwardPassMode.EVAL, None)
    np.testing.assert_array_equal(
        evaluated, logits_of(initialised, batch, key=None, dropout_rate=0.0)
    )


def test_mistakes_are_named(initialised, batch, small_dir):
    workload, params = initialised
    with pytest.raises(ValueError, match='model_state'):
        workload.model_fn(params, batch, {}, TRAIN, KEY, False)
    new = jax_workload.OgbgChemblWorkload()
    with pytest.raises(ValueError, match='init_model_fn'):
        new.model_fn(params, batch, None, TRAIN, KEY, False)
    with pytest.raises(ValueError, match='holdout'):
        workload._build_input_queue(KEY, 'holdout', small_dir, 16)
