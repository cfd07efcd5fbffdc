"""AlgoPerf's base workloads with small models, and batches that need no data.

The models have the kinds of layers of the stock ones, fewer and narrower. The batches
hold random numbers in the form in which AlgoPerf's loaders give them for training.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch

from workloads_overrides.algoperf import registration
from workloads_overrides.algoperf.replacing import replaced

NUM_CLASSES = 10
NUM_TOKENS = 32
SEQUENCE_LENGTH = 24


def criteo_batch(rng, framework):
    n = 8
    counts = np.log1p(rng.integers(0, 1000, (n, 13)))
    categories = rng.integers(0, 100_000, (n, 26))
    batch = {
        'inputs': np.concatenate([counts, categories], 1, dtype=np.float32),
        'targets': (np.arange(n) % 2).astype(np.float32),
    }
    if framework == 'pytorch':
        batch['weights'] = np.ones(n, np.float32)
    return batch


def fastmri_batch(rng, framework):
    del framework
    n, size = 2, 32
    # The sharp image and the one that too few frequencies are left of.
    image = rng.standard_normal((n, size // 8, size // 8)).repeat(8, 1).repeat(8, 2)
    blurred = sum(np.roll(image, shift, 2) for shift in range(-3, 4)) / 7
    return {
        'inputs': blurred.astype(np.float32),
        'targets': image.astype(np.float32),
        'mean': np.zeros(n, np.float32),
        'std': np.ones(n, np.float32),
        'volume_max': np.ones(n, np.float32),
    }


def image_batch(rng, framework):
    n, size = 4, 64
    images = rng.standard_normal((n, size, size, 3)).astype(np.float32)
    if framework == 'pytorch':
        images = images.transpose(0, 3, 1, 2)
    return {'inputs': images, 'targets': np.arange(n)}


def speech_batch(rng, framework):
    del framework
    audio_lengths, label_lengths = np.array([20_000, 32_000, 26_000]), [4, 7, 5]
    n, longest = len(audio_lengths), audio_lengths.max()
    padding = (np.arange(longest) >= audio_lengths[:, None]).astype(np.float32)
    audio = 1000 * rng.standard_normal((n, longest)) * (1 - padding)
    label_padding = (np.arange(16) >= np.array(label_lengths)[:, None]).astype(
        np.float32
    )
    labels = rng.integers(1, NUM_TOKENS, (n, 16)) * (1 - label_padding)
    return {
        'inputs': (audio.astype(np.float32), padding),
        'targets': (labels.astype(np.float32), label_padding),
    }


def translation_batch(rng, framework):
    # Several sentences in each sequence, padded at its end.
    batch = {}
    for side, lengths in (
        ('inputs', [(9, 12), (20,), (6, 7, 8)]),
        ('targets', [(10, 8), (23,), (7, 5, 9)]),
    ):
        tokens, positions, segments = np.zeros(
            (3, len(lengths), SEQUENCE_LENGTH), np.int32
        )
        for row, sentences in enumerate(lengths):
            total = sum(sentences)
            tokens[row, :total] = rng.integers(1, NUM_TOKENS, total)
            positions[row, :total] = np.concatenate([np.arange(k) for k in sentences])
            segments[row, :total] = np.repeat(
                np.arange(1, len(sentences) + 1), sentences
            )
        batch[side] = tokens
        batch[f'{side}_position'] = positions
        batch[f'{side}_segmentation'] = segments
    batch['weights'] = (batch['targets'] > 0).astype(np.int32)
    if framework == 'pytorch':
        batch = {key: value.astype(np.int64) for key, value in batch.items()}
    return batch


def with_sizes(**sizes):
    return lambda original: functools.partial(original, **sizes)


def narrow_resnet(original):
    """Returns what makes a ResNet of bottleneck blocks that do not widen."""
    models = sys.modules[original.__module__]

    class NarrowBottleneck(models.Bottleneck):
        expansion = 1

    return functools.partial(
        models.ResNet,
        NarrowBottleneck,
        (1, 1, 1, 1),
        num_classes=NUM_CLASSES,
        width_per_group=16,
    )


SPEECH = {'vocab_size': NUM_TOKENS, 'encoder_dim': 32}
CONFORMER = with_sizes(**SPEECH, num_attention_heads=4, num_encoder_layers=1)
DEEPSPEECH = with_sizes(**SPEECH, num_lstm_layers=1, num_ffn_layers=1)


@dataclasses.dataclass(frozen=True)
class Small:
    """How a workload is made small, and its batches.

    Attributes:
      make_batch: Makes a batch of numpy arrays for a framework.
      properties: What a subclass overrides.
      replaced: Framework to a name that the workload's module has, and to what makes
        of its value the one that it has while the model is built. For sizes that
        AlgoPerf's methods do not take from `self`.
    """

    make_batch: Callable
    properties: Mapping = dataclasses.field(default_factory=dict)
    replaced: Mapping = dataclasses.field(default_factory=dict)


WORKLOADS = {
    'criteo1tb': Small(
        criteo_batch,
        # The last of the bottom layers is as wide as AlgoPerf's embeddings, for which
        # the PyTorch model has a constant.
        {
            'vocab_size': 4096,
            'mlp_bottom_dims': (32, 128),
            'mlp_top_dims': (64, 32, 1),
        },
    ),
    'fastmri': Small(fastmri_batch, {'num_channels': 4, 'num_pool_layers': 1}),
    'imagenet_resnet': Small(
        image_batch,
        {'_num_classes': NUM_CLASSES},
        {
            'pytorch': ('resnet50', narrow_resnet),
            'jax': (
                'models.ResNet50',
                with_sizes(stage_sizes=(1, 1), num_filters=8),
            ),
        },
    ),
    'librispeech_conformer': Small(
        speech_batch,
        replaced={
            'pytorch': ('models.ConformerConfig', CONFORMER),
            'jax': ('models.ConformerConfig', CONFORMER),
        },
    ),
    'librispeech_deepspeech': Small(
        speech_batch,
        replaced={
            'pytorch': ('DeepspeechConfig', DEEPSPEECH),
            'jax': ('models.DeepspeechConfig', DEEPSPEECH),
        },
    ),
    'wmt': Small(
        translation_batch,
        {'_vocab_size': NUM_TOKENS},
        {
            'pytorch': (
                'Transformer',
                with_sizes(ntoken=NUM_TOKENS, d_model=32, nhead=4, d_hid=32, nlayers=1),
            ),
            'jax': (
                'models.TransformerConfig',
                with_sizes(
                    vocab_size=NUM_TOKENS,
                    emb_dim=32,
                    qkv_dim=32,
                    num_heads=4,
                    mlp_dim=32,
                    num_layers=1,
                ),
            ),
        },
    ),
}


def small_class(name, framework):
    """Returns AlgoPerf's class of a base workload, with a small model."""
    small = WORKLOADS[name]
    stock = registration.stock_class(name, framework)

    class SmallWorkload(stock):
        def init_model_fn(self, rng):
            with contextlib.ExitStack() as stack:
                if framework in small.replaced:
                    path, change = small.replaced[framework]
                    holder, part = _holder(sys.modules[stock.__module__], path)
                    smaller = change(getattr(holder, part))
                    stack.enter_context(replaced(holder, part, smaller))
                return super().init_model_fn(rng)

    return type(stock.__name__, (SmallWorkload,), dict(small.properties))


def _holder(module, path):
    """Returns what holds the last name of one such as `models.ResNet50`, and it."""
    *holders, name = path.split('.')
    return functools.reduce(getattr, holders, module), name


def fixed_batch(name, framework):
    """Returns the batch of a workload, as its loader would give it."""
    batch = WORKLOADS[name].make_batch(np.random.default_rng(0), framework)
    if framework == 'jax':
        return jax.tree.map(jnp.asarray, batch)
    return jax.tree.map(torch.from_numpy, batch)
