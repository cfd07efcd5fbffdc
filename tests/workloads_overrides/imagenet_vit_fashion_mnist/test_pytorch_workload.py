import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from workloads_overrides import random_utils
from workloads_overrides.imagenet_vit_fashion_mnist.pytorch_workload import (
    ImagenetVitFashionMnistGluWorkload,
    ImagenetVitFashionMnistS16Workload,
    ImagenetVitFashionMnistWideWorkload,
    ImagenetVitFashionMnistWorkload,
    parameter_type,
)
from workloads_overrides.spec import ForwardPassMode, LossType, ParameterType

KEY = random_utils.prng_key(0)


@pytest.fixture(scope='module', autouse=True)
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, 'is_available', lambda: False)
        yield


@pytest.fixture(scope='module')
def workload(on_the_cpu):
    return ImagenetVitFashionMnistWorkload()


def forward(workload, model, batch, mode=ForwardPassMode.TRAIN, **options):
    logits, state = workload.model_fn(
        model, batch, None, mode, KEY, update_batch_norm=False, **options
    )
    assert state is None
    return logits


def s16_parameter_shapes():
    """Names as in AlgoPerf's ViT-S, with one input channel and ten classes."""
    shapes = {
        'conv_patch_extract.weight': (384, 1, 4, 4),
        'conv_patch_extract.bias': (384,),
        'encoder.encoder_norm.weight': (384,),
        'encoder.encoder_norm.bias': (384,),
        'pre_logits.weight': (384, 384),
        'pre_logits.bias': (384,),
        'head.weight': (10, 384),
        'head.bias': (10,),
    }
    in_each_block = {
        'layer_norm0.weight': (384,),
        'layer_norm0.bias': (384,),
        'self_attention1.query.weight': (384, 384),
        'self_attention1.query.bias': (384,),
        'self_attention1.key.weight': (384, 384),
        'self_attention1.key.bias': (384,),
        'self_attention1.value.weight': (384, 384),
        'self_attention1.value.bias': (384,),
        'self_attention1.out.weight': (384, 384),
        'self_attention1.out.bias': (384,),
        'layer_norm2.weight': (384,),
        'layer_norm2.bias': (384,),
        'mlp3.linear1.weight': (1536, 384),
        'mlp3.linear1.bias': (1536,),
        'mlp3.linear2.weight': (384, 1536),
        'mlp3.linear2.bias': (384,),
    }
    for i in range(12):
        shapes |= {
            f'encoder.net.{i}.{name}': in_each_block[name] for name in in_each_block
        }
    return shapes


def test_s16_parameters():
    workload = ImagenetVitFashionMnistS16Workload()
    model, _ = workload.init_model_fn(KEY)
    assert dict(workload.param_shapes) == s16_parameter_shapes()
    blocks = model.encoder.net
    assert {block.self_attention1.num_heads for block in blocks} == {6}


def test_wide_parameters():
    workload = ImagenetVitFashionMnistWideWorkload()
    model, _ = workload.init_model_fn(KEY)
    assert workload.param_shapes['conv_patch_extract.weight'][0] == 192
    blocks = model.encoder.net
    assert [block.self_attention1.num_heads for block in blocks] == [3] * 6


def test_gated_model_is_the_small_one_with_a_gate_in_each_block(workload):
    changed = ImagenetVitFashionMnistGluWorkload()
    model, _ = changed.init_model_fn(KEY)
    gates = 3 * (192 * 192 + 192)
    assert sum(p.numel() for p in model.parameters()) == 88_570 + gates
    assert changed.model_size == workload.model_size
    assert changed.step_hint == workload.step_hint
    # Every parameter has a kind.
    assert changed.model_params_types.keys() == dict(model.named_parameters()).keys()


def test_default_size(workload):
    model, _ = workload.init_model_fn(KEY)
    assert sum(parameter.numel() for parameter in model.parameters()) == 88_570
    assert len(model.encoder.net) == 3
    assert model.position_embedding.shape == (49, 48)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('conv_patch_extract.weight', ParameterType.CONV_WEIGHT),
        ('conv_patch_extract.bias', ParameterType.BIAS),
        ('encoder.net.2.layer_norm0.weight', ParameterType.LAYER_NORM_SCALE),
        ('encoder.encoder_norm.bias', ParameterType.LAYER_NORM_BIAS),
        ('encoder.net.0.self_attention1.query.weight', ParameterType.ATTENTION_Q),
        ('encoder.net.0.self_attention1.key.weight', ParameterType.ATTENTION_K),
        ('encoder.net.0.self_attention1.value.weight', ParameterType.ATTENTION_V),
        ('encoder.net.0.self_attention1.out.weight', ParameterType.ATTENTION_OUT),
        ('encoder.net.0.self_attention1.out.bias', ParameterType.ATTENTION_BIAS),
        ('encoder.net.0.mlp3.linear1.weight', ParameterType.WEIGHT),
        ('encoder.net.0.mlp3.linear1.bias', ParameterType.BIAS),
        ('pre_logits.weight', ParameterType.WEIGHT),
        ('head.bias', ParameterType.BIAS),
    ],
)
def test_parameter_types(workload, name, expected):
    assert parameter_type(name) == expected
    workload.init_model_fn(KEY)
    assert workload.model_params_types[name] == expected
    assert workload.model_params_types.keys() == workload.param_shapes.keys()


def test_output_parameters(workload):
    workload.init_model_fn(KEY)
    output = [name for name in workload.param_shapes if workload.is_output_params(name)]
    assert output == ['head.weight', 'head.bias']


def test_initial_parameters_depend_on_the_key(workload):
    first, again, other = (
        workload.init_model_fn(key)[0].pre_logits.weight
        for key in ((5, 1), (5, 2), (6, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fixed_properties(workload):
    assert workload.loss_type is LossType.SOFTMAX_CROSS_ENTROPY
    target = workload.validation_target_value
    for accuracy, reached in ((target, False), (target + 1e-6, True)):
        assert (
            workload.has_reached_validation_target({'validation/accuracy': accuracy})
            is reached
        )


def test_training_queue(workload):
    queue = workload._build_input_queue(KEY, 'train', None, 16)
    skipping = workload._build_input_queue(KEY, 'train', None, 16)
    batches = [next(queue) for _ in range(3)]
    assert set(batches[0]) == {'inputs', 'targets'}
    assert batches[0]['inputs'].shape == (16, 1, 28, 28)
    assert batches[0]['inputs'].dtype == torch.float32
    assert batches[0]['targets'].dtype == torch.int64
    skipping.skip(2)
    after_skip = next(skipping)
    for name in after_skip:
        assert torch.equal(after_skip[name], batches[2][name])


@pytest.mark.parametrize('split', ['eval_train', 'validation', 'test'])
def test_evaluation_queue(workload, split):
    queue = workload._build_input_queue(KEY, split, None, 700)
    batches = [next(queue) for _ in range(4)]
    expected = {'eval_train': 2_000, 'validation': 2_000, 'test': 1_500}[split]
    assert sum(batch['weights'].sum().item() for batch in batches[:3]) == expected
    assert torch.equal(batches[3]['inputs'], batches[0]['inputs'])
    assert batches[0]['targets'].dtype == torch.int64


def test_unknown_split_is_named(workload):
    with pytest.raises(ValueError, match="no split 'valid'; use one of train"):
        workload._build_input_queue(KEY, 'valid', None, 10)


def test_numbers_of_examples_follow_the_data(tmp_path, write_full_set):
    workload = ImagenetVitFashionMnistWorkload()
    assert workload.num_train_examples == 10_000
    write_full_set(tmp_path, num_train=12_100, num_test=30)
    workload._build_input_queue(KEY, 'train', str(tmp_path), 10)
    assert workload.num_train_examples == 2_100
    assert workload.num_validation_examples == 10_000
    assert workload.num_test_examples == 30
    assert workload.num_eval_train_examples == 2_000
    workload._build_input_queue(KEY, 'train', None, 10)
    assert workload.num_train_examples == 10_000
    assert workload.num_test_examples == 1_500


def logits_and_labels(dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(6, 10, dtype=dtype), torch.tensor([0, 9, 3, 3, 5, 1])


@pytest.mark.parametrize('label_smoothing', [0.0, 0.1])
def test_loss_with_a_mask_is_the_loss_without_the_masked(workload, label_smoothing):
    logits, labels = logits_and_labels()
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    loss = workload.loss_fn(labels, logits, mask, label_smoothing)
    kept = mask.bool()
    expected = functional.cross_entropy(
        logits[kept], labels[kept], reduction='sum', label_smoothing=label_smoothing
    )
    torch.testing.assert_close(loss['summed'], expected)
    assert loss['n_valid_examples'].item() == 4
    assert loss['per_example'].shape == (6,)
    assert not loss['per_example'][~kept].any()
    torch.testing.assert_close(loss['per_example'].sum(), loss['summed'])


def test_loss_formula_with_label_smoothing(workload):
    logits, labels = logits_and_labels()
    loss = workload.loss_fn(labels, logits, label_smoothing=0.2)
    smoothed = 0.8 * functional.one_hot(labels, 10) + 0.02
    expected = -(smoothed * logits.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(loss['per_example'], expected)
    assert isinstance(loss['n_valid_examples'], torch.Tensor)
    assert loss['n_valid_examples'].item() == 6
    dense = workload.loss_fn(smoothed, logits)
    torch.testing.assert_close(dense['per_example'], expected)


def test_a_few_steps_reduce_the_loss(workload):
    batch = next(workload._build_input_queue(KEY, 'train', None, 32))
    model, _ = workload.init_model_fn(KEY)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = workload.loss_fn(batch['targets'], forward(workload, model, batch))
        mean = loss['summed'] / loss['n_valid_examples']
        mean.backward()
        optimiser.step()
        losses.append(mean.item())
    assert losses[0] == pytest.approx(math.log(10), rel=1e-5)
    assert losses[-1] < 0.9 * losses[0]


def test_modes(workload):
    batch = next(workload._build_input_queue(KEY, 'train', None, 4))
    model, _ = workload.init_model_fn(KEY)
    torch.nn.init.normal_(model.head.weight)
    evaluated = forward(workload, model, batch, ForwardPassMode.EVAL, dropout_rate=0.5)
    assert not evaluated.requires_grad
    assert not model.training
    trained = forward(workload, model, batch)
    assert trained.requires_grad
    assert model.training
    torch.testing.assert_close(trained.detach(), evaluated)
    dropped = forward(workload, model, batch, dropout_rate=0.5)
    assert not torch.allclose(dropped, trained)


def test_wrapped_model(workload):
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    batch = next(workload._build_input_queue(KEY, 'train', None, 4))
    model, _ = workload.init_model_fn(KEY)
    torch.nn.init.normal_(model.head.weight)
    torch.testing.assert_close(
        forward(workload, Wrapper(model), batch), forward(workload, model, batch)
    )


class FirstPixels(torch.nn.Module):
    """Stands in for the model: its logits are a row of pixels."""

    def forward(self, x, dropout_rate):
        return x[:, 0, 14, :10]


@pytest.mark.parametrize('batch_size', [500, 700])
def test_evaluation_against_all_images_at_once(workload, batch_size):
    results = workload.eval_model(batch_size, FirstPixels(), None, KEY, None, None, 0)
    for prefix, split, count in (
        ('train', 'train', 2_000),
        ('validation', 'validation', 2_000),
        ('test', 'test', 1_500),
    ):
        images = workload.load_data(None)[split]
        logits = (images.pixels[:count, 14, :10] - workload.train_mean) / (
            workload.train_stddev
        )
        labels = images.labels[:count]
        accuracy = (np.argmax(logits, axis=1) == labels).mean()
        loss = functional.cross_entropy(torch.tensor(logits), torch.tensor(labels))
        assert results[f'{prefix}/accuracy'] == pytest.approx(accuracy, abs=1e-6)
        assert results[f'{prefix}/loss'] == pytest.approx(loss.item(), rel=1e-5)
    assert results['validation/num_examples'] == 2_000
    assert results['test/num_examples'] == 1_500


def test_evaluation_before_training_counts_the_full_set(tmp_path, write_full_set):
    workload = ImagenetVitFashionMnistWorkload()
    write_full_set(tmp_path, num_train=12_100, num_test=30)
    results = workload.eval_model(
        5_000, FirstPixels(), None, KEY, str(tmp_path), None, 0
    )
    assert results['validation/num_examples'] == 10_000
    assert results['test/num_examples'] == 30
