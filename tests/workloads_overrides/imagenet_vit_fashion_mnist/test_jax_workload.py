import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.workloads_overrides.double_precision import double_precision
from workloads_overrides import flax_parameters, spec
from workloads_overrides.imagenet_vit_fashion_mnist import (
    jax_workload,
    pytorch_workload,
)

KEY = jax.random.PRNGKey(0)
TRAIN = spec.ForwardPassMode.TRAIN
NAMES = [
    f'ImagenetVitFashionMnist{variant}Workload'
    for variant in ('', 'Wide', 'S16', 'Glu')
]


@pytest.fixture(scope='module')
def initialised():
    workload = jax_workload.ImagenetVitFashionMnistWorkload()
    params, state = workload.init_model_fn(KEY)
    assert state is None
    return workload, params


@pytest.mark.parametrize('name', NAMES)
def test_parameters_are_those_of_the_pytorch_workload(name):
    reference = getattr(pytorch_workload, name)()
    heads = reference.model_size.num_heads
    model, _ = reference.init_model_fn(np.array([0, 1]))
    expected = flax_parameters.vit_params(model.state_dict(), heads)
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
    assert found == jax.tree.map(np.max, flax_parameters.vit_params(kinds, heads))
    assert workload.validation_target_value == reference.validation_target_value
    assert workload.step_hint == reference.step_hint
    assert [key for key in params if workload.is_output_params(key)] == ['head']


def test_initial_parameters_depend_on_the_key(initialised):
    workload, first = initialised
    # Compiled once for both.
    init = jax.jit(lambda key: workload.init_model_fn(key)[0])
    again, other = init(KEY), init(jax.random.PRNGKey(1))
    kernels = [params['pre_logits']['kernel'] for params in (first, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert not np.any(first['head']['kernel'])


@pytest.mark.parametrize('split', ['train', 'eval_train', 'validation', 'test'])
def test_batches_are_those_of_pytorch(split):
    queues = [
        module.ImagenetVitFashionMnistWorkload()._build_input_queue(
            key, split, None, 700
        )
        for module, key in ((jax_workload, KEY), (pytorch_workload, np.asarray(KEY)))
    ]
    for _ in range(4):
        batch, expected = (next(queue) for queue in queues)
        assert batch.keys() == expected.keys()
        assert batch['inputs'].shape == (700, 28, 28, 1)
        np.testing.assert_array_equal(
            batch.pop('inputs').transpose(0, 3, 1, 2), expected['inputs']
        )
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[name])
    if split == 'train':
        for queue in queues:
            queue.skip(20)
        np.testing.assert_array_equal(*(next(queue)['targets'] for queue in queues))


@pytest.mark.parametrize('dense', [True, False])
@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('label_smoothing', [0.0, 0.1])
def test_loss_and_its_gradient_are_those_of_pytorch(dense, masked, label_smoothing):
    rng = np.random.default_rng(0)
    logits = 10 * rng.standard_normal((6, 10))
    labels = rng.dirichlet(np.ones(10), 6) if dense else rng.integers(0, 10, 6)
    mask = np.array([1.0, 0, 1, 1, 0, 1]) if masked else None
    torch_logits = torch.tensor(logits, requires_grad=True)
    expected = pytorch_workload.ImagenetVitFashionMnistWorkload().loss_fn(
        torch.tensor(labels),
        torch_logits,
        torch.tensor(mask) if masked else None,
        label_smoothing,
    )
    expected['summed'].backward()

    def loss_fn(logits):
        loss = jax_workload.ImagenetVitFashionMnistWorkload().loss_fn(
            labels, logits, mask, label_smoothing
        )
        return loss['summed'], loss

    with double_precision():
        gradient, loss = jax.grad(loss_fn, has_aux=True)(jnp.asarray(logits))
    for name in ('summed', 'per_example', 'n_valid_examples'):
        np.testing.assert_allclose(loss[name], expected[name].detach(), rtol=1e-12)
    np.testing.assert_allclose(gradient, torch_logits.grad, rtol=1e-10, atol=1e-14)


def test_evaluation_is_that_of_pytorch_and_compiled_once():
    reference = pytorch_workload.ImagenetVitFashionMnistWorkload()
    workload = jax_workload.ImagenetVitFashionMnistWorkload()
    for either in (reference, workload):
        # The last batch of 150 is filled up with 80 blank images.
        images = either.load_data(None)
        for split in images:
            images[split] = type(images[split])(
                *(field[:220] for field in images[split])
            )
        either.num_eval_train_examples = 220
        either.num_validation_examples = either.num_test_examples = 220
    model, _ = reference.init_model_fn(np.array([0, 1]))
    torch.nn.init.normal_(model.head.weight)
    expected = reference.eval_model(150, model, None, [0, 1], None, None, 0)
    workload.init_model_fn(KEY)
    params = flax_parameters.vit_params(model.state_dict(), num_heads=3)
    for _ in range(2):
        found = workload.eval_model(150, params, None, KEY, None, None, 0)
        assert found == pytest.approx(expected, rel=1e-5)
    assert 0 < found['test/accuracy'] < 1
    assert workload._jitted_evaluate_batch._cache_size() == 1


def test_dropout_acts_where_it_is_given(initialised):
    workload, params = initialised
    params = {**params, 'head': jax.tree.map(jnp.ones_like, params['head'])}
    batch = next(workload._build_input_queue(KEY, 'train', None, 4))

    def logits(mode, key, **options):
        found, state = workload.model_fn(
            params, batch, None, mode, key, True, **options
        )
        assert state is None
        return found

    evaluated = logits(spec.ForwardPassMode.EVAL, None, dropout_rate=0.5)
    np.testing.assert_array_equal(logits(TRAIN, None), evaluated)
    assert not np.allclose(logits(TRAIN, KEY, dropout_rate=0.5), evaluated)


def test_batches_that_devices_cannot_share_are_refused(initialised, monkeypatch):
    workload, _ = initialised
    monkeypatch.setattr(jax, 'device_count', lambda: 4)
    with pytest.raises(ValueError, match=r'batch of 10 images .* 4 devices'):
        workload._build_input_queue(KEY, 'train', None, 10)
