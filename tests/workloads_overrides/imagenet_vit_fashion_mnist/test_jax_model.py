import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.workloads_overrides.double_precision import double_precision
from workloads_overrides import flax_parameters
from workloads_overrides.imagenet_vit_fashion_mnist import jax_model, pytorch_model

SIZES = {
    'num_classes': 5,
    'patch_size': 4,
    'width': 24,
    'depth': 2,
    'mlp_dim': 32,
    'num_heads': 3,
}
MODEL = jax_model.ViT(**SIZES)
every_architecture = pytest.mark.parametrize(
    'architecture', [{}, {'use_glu': True}], ids=['base', 'glu']
)


@pytest.fixture
def torch_model():
    return make_torch_model()


def make_torch_model(**architecture):
    model = pytorch_model.ViT(
        image_size=16, channels=2, **SIZES, **architecture
    ).double()
    # Made in single precision, where Flax's is exact.
    model.position_embedding = torch.from_numpy(
        pytorch_model.fixed_embedding.position_embedding(4, 4, 24)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((3, 2, 16, 16))


def channels_last(images):
    return images.transpose(0, 2, 3, 1)


@every_architecture
def test_logits_and_gradients_are_those_of_pytorch(architecture, images):
    torch_model = make_torch_model(**architecture)
    model = jax_model.ViT(**SIZES, **architecture)
    cotangent = np.random.default_rng(1).standard_normal((3, 5))
    logits = torch_model(torch.from_numpy(images))
    logits.backward(torch.from_numpy(cotangent))
    gradients = {name: p.grad for name, p in torch_model.named_parameters()}

    def summed(params):
        found = model.apply({'params': params}, channels_last(images), train=False)
        return jnp.sum(found * cotangent), found

    with double_precision():
        params = flax_parameters.vit_params(torch_model.state_dict(), num_heads=3)
        found, found_logits = jax.jit(jax.grad(summed, has_aux=True))(params)
    np.testing.assert_allclose(found_logits, logits.detach(), rtol=1e-10, atol=1e-12)
    expected = flax_parameters.vit_params(gradients, num_heads=3)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    largest = max(abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for left, right in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        # The bias of the keys has no gradient but rounding errors.
        scale = max(abs(right).max(), 1e-6 * largest)
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-10 * scale)


@every_architecture
def test_parameters_travel_there_and_back(architecture):
    state_dict = make_torch_model(**architecture).state_dict()
    params = flax_parameters.vit_params(state_dict, num_heads=3)
    back = flax_parameters.vit_state_dict(params, state_dict)
    assert back.keys() == state_dict.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, state_dict[name])


def new_params(model=MODEL):
    init = jax.jit(functools.partial(model.init, train=False))
    return init(jax.random.PRNGKey(0), jnp.ones((1, 16, 16, 2)))['params']


@every_architecture
def test_names_and_shapes_are_those_of_a_new_model(architecture):
    torch_model = make_torch_model(**architecture)
    copied = flax_parameters.vit_params(torch_model.state_dict(), num_heads=3)
    new = new_params(jax_model.ViT(**SIZES, **architecture))
    assert jax.tree.map(np.shape, new) == jax.tree.map(np.shape, copied)


@every_architecture
def test_initial_parameters_have_the_distributions_of_pytorch(architecture):
    sizes = {**SIZES, 'width': 240, 'mlp_dim': 320, **architecture}
    params = flax_parameters.vit_state_dict(
        new_params(jax_model.ViT(**sizes)),
        names := pytorch_model.ViT(image_size=16, channels=2, **sizes).state_dict(),
    )
    for name, expected in names.items():
        array = params[name]
        assert array.shape == expected.shape, name
        if expected.std() == 0:
            np.testing.assert_array_equal(array, expected, name)
            continue
        assert array.std() == pytest.approx(expected.std().item(), rel=0.2), name
        assert abs(array.mean()) < 0.2 * array.std(), name
        if array.ndim > 1:
            # Uniform and cut off distributions have a largest value.
            largest = expected.abs().max().item()
            assert abs(array).max() == pytest.approx(largest, rel=0.1), name


def test_dropout_acts_in_training_only(torch_model, images):
    params = flax_parameters.vit_params(torch_model.state_dict(), num_heads=3)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def apply(train, rate):
        return MODEL.apply(
            {'params': params},
            channels_last(images),
            train=train,
            dropout_rate=rate,
            rngs={'dropout': jax.random.PRNGKey(3)},
        )

    clean = apply(False, 0.5)
    np.testing.assert_array_equal(apply(True, 0.0), clean)
    assert not np.allclose(apply(True, 0.5), clean)


def test_no_dropout_draws_no_random_bits(torch_model, images):
    params = flax_parameters.vit_params(torch_model.state_dict(), num_heads=3)

    def traced(rate):
        return str(
            jax.make_jaxpr(
                lambda key: MODEL.apply(
                    {'params': params},
                    channels_last(images),
                    train=True,
                    dropout_rate=rate,
                    rngs={'dropout': key},
                )
            )(jax.random.PRNGKey(0))
        )

    assert 'random' not in traced(0.0)
    assert 'random' in traced(0.1)


def test_patches_have_to_tile_the_image():
    with pytest.raises(ValueError, match='Patches of 4 do not tile images of 16 x 18'):
        MODEL.init(jax.random.PRNGKey(0), jnp.ones((1, 16, 18, 2)), train=False)
