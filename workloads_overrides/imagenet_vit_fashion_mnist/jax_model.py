"""Vision transformer in Flax, with the architecture of AlgoPerf's imagenet_vit.

Modules carry the names that AlgoPerf's have, so that parameters can be copied across.
As there, and unlike the PyTorch models of both, dropout does not act on the attention
weights.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from workloads_overrides.flax_dropout import Dropout
from workloads_overrides.imagenet_vit_fashion_mnist.fixed_embedding import (
    position_embedding,
)

_MLP_BIAS_STDDEV = 1e-6


class MlpBlock(nn.Module):
    """Two dense layers with a GELU between them, gated if `use_glu`.

    The gate is one more dense layer, of what the GELU returns, and multiplies it.
    """

    mlp_dim: int
    use_glu: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout_rate: Any) -> jax.Array:
        """Maps `[B, T, width]` to the same shape."""

        def dense(features: int) -> nn.Dense:
            return nn.Dense(
                features,
                kernel_init=nn.initializers.xavier_uniform(),
                bias_init=nn.initializers.normal(stddev=_MLP_BIAS_STDDEV),
            )

        width = x.shape[-1]
        x = nn.gelu(dense(self.mlp_dim)(x))
        if self.use_glu:
            x = x * dense(self.mlp_dim)(x)
        return dense(width)(Dropout()(x, dropout_rate, train))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block; the names count the parts as AlgoPerf's do."""

    mlp_dim: int
    num_heads: int
    use_glu: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout_rate: Any) -> jax.Array:
        """Maps `[B, T, width]` to the same shape."""
        y = nn.LayerNorm(name='LayerNorm_0')(x)
        y = nn.MultiHeadDotProductAttention(
            num_heads=self.num_heads,
            kernel_init=nn.initializers.xavier_uniform(),
            name='MultiHeadDotProductAttention_1',
        )(y)
        x = x + Dropout()(y, dropout_rate, train)
        y = nn.LayerNorm(name='LayerNorm_2')(x)
        mlp = MlpBlock(self.mlp_dim, self.use_glu, name='MlpBlock_3')
        return x + Dropout()(mlp(y, train, dropout_rate), dropout_rate, train)


class Encoder(nn.Module):
    """Transformer blocks and the normalisation after the last of them."""

    depth: int
    mlp_dim: int
    num_heads: int
    use_glu: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout_rate: Any) -> jax.Array:
        """Maps `[B, T, width]` to the same shape."""
        for index in range(self.depth):
            x = EncoderBlock(
                self.mlp_dim,
                self.num_heads,
                self.use_glu,
                name=f'encoderblock_{index}',
            )(x, train, dropout_rate)
        return nn.LayerNorm(name='encoder_layernorm')(x)


class ViT(nn.Module):
    """Vision transformer that averages its tokens and starts with a zero head.

    Attributes:
        num_classes: Number of logits.
        patch_size: Height and width of a patch.
        width: Size of a token.
        depth: Number of blocks.
        mlp_dim: Size of the hidden layer of each block's MLP.
        num_heads: Number of attention heads; divides `width`.
        use_glu: Whether the MLPs of the blocks are gated.
    """

    num_classes: int
    patch_size: int
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    use_glu: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout_rate: Any = 0.0) -> jax.Array:
        """Maps images `[B, H, W, channels]` to logits `[B, num_classes]`."""
        patch = (self.patch_size, self.patch_size)
        if x.shape[1] % self.patch_size or x.shape[2] % self.patch_size:
            raise ValueError(
                f'Patches of {self.patch_size} do not tile images of '
                f'{x.shape[1]} x {x.shape[2]} pixels.'
            )
        x = nn.Conv(
            self.width,
            kernel_size=patch,
            strides=patch,
            padding='VALID',
            name='conv_patch_extract',
        )(x)
        _, rows, columns, _ = x.shape
        x = x.reshape(len(x), rows * columns, self.width)
        x = x + jnp.asarray(position_embedding(rows, columns, self.width), x.dtype)
        x = Dropout()(x, dropout_rate, train)
        x = Encoder(
            self.depth, self.mlp_dim, self.num_heads, self.use_glu, name='Transformer'
        )(x, train, dropout_rate)
        x = nn.tanh(nn.Dense(self.width, name='pre_logits')(x.mean(axis=1)))
        return nn.Dense(
            self.num_classes, kernel_init=nn.initializers.zeros, name='head'
        )(x)
