import math

import pytest
import torch
from torch.nn import functional

from workloads_overrides.imagenet_vit_fashion_mnist.pytorch_model import (
    SelfAttention,
    ViT,
    position_embedding,
)

SIZES = {
    'num_classes': 10,
    'image_size': 28,
    'channels': 1,
    'patch_size': 7,
    'width': 24,
    'depth': 2,
    'mlp_dim': 40,
    'num_heads': 3,
}


def build(**changes):
    torch.manual_seed(0)
    return ViT(**{**SIZES, **changes})


def with_random_parameters(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize(('height', 'width', 'dim'), [(7, 7, 48), (2, 3, 8)])
def test_position_embedding_against_the_formula(height, width, dim):
    embedding = position_embedding(height, width, dim)
    assert embedding.shape == (height * width, dim)
    quarter = dim // 4
    for y in range(height):
        for x in range(width):
            token = embedding[y * width + x]
            for i in range(quarter):
                frequency = 1 / 10_000 ** (i / (quarter - 1))
                expected = [
                    math.sin(x * frequency),
                    math.cos(x * frequency),
                    math.sin(y * frequency),
                    math.cos(y * frequency),
                ]
                assert token[i::quarter].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('dim', [4, 10])
def test_position_embedding_refuses_other_sizes(dim):
    with pytest.raises(ValueError, match=f'width of {dim}'):
        position_embedding(2, 2, dim)


def test_zero_head_predicts_uniformly_whatever_the_image():
    model = build()
    probabilities = model(torch.randn(5, 1, 28, 28)).softmax(dim=1)
    assert torch.equal(probabilities, torch.full((5, 10), 0.1))


def test_tokens_see_their_own_patch():
    model = with_random_parameters(build())
    image = torch.randn(1, 1, 28, 28)
    tokens = model.conv_patch_extract(image).flatten(2).transpose(1, 2)
    patch = image[0, 0, 7:14, 21:28]
    by_hand = torch.einsum('cij,ij->c', model.conv_patch_extract.weight[:, 0], patch)
    by_hand = by_hand + model.conv_patch_extract.bias
    # The second row of four patches a row, last column.
    torch.testing.assert_close(tokens[0, 4 + 3], by_hand)


def test_attention_against_the_fused_function():
    torch.manual_seed(0)
    attention = SelfAttention(width=24, num_heads=3).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    heads = [
        layer(x).reshape(2, 5, 3, 8).permute(0, 2, 1, 3)
        for layer in (attention.query, attention.key, attention.value)
    ]
    mixed = functional.scaled_dot_product_attention(*heads)
    expected = attention.out(mixed.permute(0, 2, 1, 3).reshape(2, 5, 24))
    torch.testing.assert_close(attention(x, 0.0), expected)


def test_whole_model_against_a_written_out_forward_pass():
    model = with_random_parameters(build()).double()
    parameters = dict(model.named_parameters())

    def linear(name, x):
        return x @ parameters[f'{name}.weight'].T + parameters[f'{name}.bias']

    def norm(name, x):
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        scaled = centred / (variance + 1e-6).sqrt()
        return scaled * parameters[f'{name}.weight'] + parameters[f'{name}.bias']

    def attend(name, x):
        outputs = []
        q, k, v = (linear(f'{name}.{part}', x) for part in ('query', 'key', 'value'))
        for head in range(3):
            one = slice(8 * head, 8 * head + 8)
            scores = q[..., one] @ k[..., one].transpose(1, 2) / math.sqrt(8)
            outputs.append(scores.softmax(-1) @ v[..., one])
        return linear(f'{name}.out', torch.cat(outputs, -1))

    def gelu(x):
        return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())

    images = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    x = functional.conv2d(
        images,
        parameters['conv_patch_extract.weight'],
        parameters['conv_patch_extract.bias'],
        stride=7,
    )
    x = x.reshape(3, 24, 16).transpose(1, 2) + position_embedding(4, 4, 24)
    for i in range(2):
        block = f'encoder.net.{i}'
        x = x + attend(f'{block}.self_attention1', norm(f'{block}.layer_norm0', x))
        hidden = gelu(linear(f'{block}.mlp3.linear1', norm(f'{block}.layer_norm2', x)))
        x = x + linear(f'{block}.mlp3.linear2', hidden)
    x = norm('encoder.encoder_norm', x).mean(1)
    expected = linear('head', linear('pre_logits', x).tanh())
    torch.testing.assert_close(model(images), expected)


def test_gate_multiplies_what_the_gelu_returns():
    model = with_random_parameters(build(use_glu=True)).double()
    mlp = model.encoder.net[1].mlp3
    weights = dict(mlp.named_parameters())

    def linear(name, x):
        return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

    x = torch.randn(3, 5, 24, dtype=torch.float64)
    hidden = functional.gelu(linear('linear1', x), approximate='tanh')
    expected = linear('linear2', hidden * linear('glu_linear', hidden))
    torch.testing.assert_close(mlp(x, 0.0), expected)


def test_initial_values():
    model = build(width=96, mlp_dim=400, depth=1)
    parameters = dict(model.named_parameters())
    block = 'encoder.net.0.'
    for name, fan_sum in (
        ('self_attention1.query', 96 + 96),
        ('self_attention1.key', 96 + 96),
        ('self_attention1.value', 96 + 96),
        ('self_attention1.out', 96 + 96),
        ('mlp3.linear1', 96 + 400),
        ('mlp3.linear2', 96 + 400),
    ):
        weight = parameters[f'{block}{name}.weight']
        limit = math.sqrt(6 / fan_sum)
        assert 0.98 * limit < weight.abs().max() <= limit
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
    for name, fan_in in (('conv_patch_extract', 49), ('pre_logits', 96)):
        weight = parameters[f'{name}.weight']
        stddev = 1 / math.sqrt(fan_in)
        assert weight.std().item() == pytest.approx(stddev, rel=0.05)
        assert weight.abs().max() <= 2 * stddev / 0.8796
        assert not parameters[f'{name}.bias'].any()
    for name in ('query', 'key', 'value', 'out'):
        assert not parameters[f'{block}self_attention1.{name}.bias'].any()
    for name in ('linear1', 'linear2'):
        bias = parameters[f'{block}mlp3.{name}.bias']
        assert bias.std().item() == pytest.approx(1e-6, rel=0.25)
    assert not parameters['head.weight'].any()
    assert not parameters['head.bias'].any()


def test_dropout_acts_in_training_only():
    model = with_random_parameters(build())
    images = torch.randn(2, 1, 28, 28)
    model.eval()
    assert torch.equal(model(images, dropout_rate=0.5), model(images))
    model.train()
    assert torch.equal(model(images), model(images))
    dropped = model(images, dropout_rate=0.5)
    assert not torch.equal(dropped, model(images))
    assert not torch.equal(dropped, model(images, dropout_rate=0.5))


def test_everything_dropped_leaves_no_trace_of_the_image():
    model = with_random_parameters(build())
    logits = model(torch.randn(2, 1, 28, 28), dropout_rate=1.0)
    torch.testing.assert_close(logits[0], logits[1])


def test_double_precision_and_no_buffers_in_the_state():
    model = with_random_parameters(build()).double()
    assert model(torch.randn(2, 1, 28, 28, dtype=torch.float64)).dtype == torch.float64
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_second_derivatives_exist():
    model = with_random_parameters(build()).double()
    loss = model(torch.randn(2, 1, 28, 28, dtype=torch.float64)).square().sum()
    weight = model.encoder.net[0].self_attention1.query.weight
    (first,) = torch.autograd.grad(loss, weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), weight)
    assert second.abs().max() > 0


@pytest.mark.parametrize(
    ('change', 'message'), [({'patch_size': 5}, 'tile'), ({'num_heads': 5}, '5 heads')]
)
def test_sizes_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        build(**change)
