"""Vision transformer in PyTorch, with the architecture of AlgoPerf's imagenet_vit.

Parameter names match AlgoPerf's, so parameters can be copied across.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from workloads_overrides.imagenet_vit_fashion_mnist import fixed_embedding

LAYER_NORM_EPS = 1e-6
_MLP_BIAS_STDDEV = 1e-6
# Standard deviation of a standard normal variable cut off at -2 and 2.
_TRUNCATED_STDDEV = 0.87962566103423978


def position_embedding(height: int, width: int, dim: int) -> torch.Tensor:
    """Returns the embedding of `fixed_embedding` in PyTorch's default type."""
    embedding = fixed_embedding.position_embedding(height, width, dim)
    return torch.from_numpy(embedding).to(torch.get_default_dtype())


def _init_xavier(layer: nn.Linear, bias_stddev: float) -> None:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.normal_(layer.bias, std=bias_stddev)


def _check_heads(width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(
            f'The width {width} is not a multiple of the {num_heads} heads.'
        )


def _init_lecun(layer: nn.Linear | nn.Conv2d) -> None:
    fan_in = layer.weight[0].numel()
    stddev = 1 / math.sqrt(fan_in) / _TRUNCATED_STDDEV
    nn.init.trunc_normal_(layer.weight, std=stddev, a=-2 * stddev, b=2 * stddev)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens `[B, T, width]`."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        _check_heads(width, num_heads)
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        for layer in (self.query, self.key, self.value, self.out):
            _init_xavier(layer, bias_stddev=0.0)

    def forward(self, x: torch.Tensor, dropout_rate: float) -> torch.Tensor:
        """Maps `[B, T, width]` to the same shape."""
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scale = 1 / math.sqrt(query.shape[-1])
        attention = ((query * scale) @ key.transpose(-1, -2)).softmax(dim=-1)
        attention = functional.dropout(attention, dropout_rate, self.training)
        return self.out((attention @ value).transpose(1, 2).flatten(2))


class MlpBlock(nn.Module):
    """Two linear layers with a GELU between them, gated if `use_glu`.

    The gate is one more linear layer, of what the GELU returns, and multiplies it.
    """

    def __init__(self, width: int, mlp_dim: int, use_glu: bool = False) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, mlp_dim)
        self.glu_linear = nn.Linear(mlp_dim, mlp_dim) if use_glu else None
        self.linear2 = nn.Linear(mlp_dim, width)
        for layer in (self.linear1, self.glu_linear, self.linear2):
            if layer is not None:
                _init_xavier(layer, bias_stddev=_MLP_BIAS_STDDEV)

    def forward(self, x: torch.Tensor, dropout_rate: float) -> torch.Tensor:
        """Maps `[B, T, width]` to the same shape."""
        x = functional.gelu(self.linear1(x), approximate='tanh')
        if self.glu_linear is not None:
            x = x * self.glu_linear(x)
        return self.linear2(functional.dropout(x, dropout_rate, self.training))


class EncoderBlock(nn.Module):
    """Transformer block; the names count the parts as AlgoPerf's do.

    Its parts see normalised tokens or, if `use_post_layer_norm`, their sums with the
    tokens are normalised.
    """

    def __init__(
        self,
        width: int,
        mlp_dim: int,
        num_heads: int,
        use_glu: bool,
        use_post_layer_norm: bool,
    ) -> None:
        super().__init__()
        self.use_post_layer_norm = use_post_layer_norm
        self.layer_norm0 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.self_attention1 = SelfAttention(width, num_heads)
        self.layer_norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp3 = MlpBlock(width, mlp_dim, use_glu)

    def forward(self, x: torch.Tensor, dropout_rate: float) -> torch.Tensor:
        """Maps `[B, T, width]` to the same shape."""
        for norm, part in (
            (self.layer_norm0, self.self_attention1),
            (self.layer_norm2, self.mlp3),
        ):
            y = part(x if self.use_post_layer_norm else norm(x), dropout_rate)
            x = x + functional.dropout(y, dropout_rate, self.training)
            if self.use_post_layer_norm:
                x = norm(x)
        return x


class Encoder(nn.Module):
    """Transformer blocks and, with pre-norm ones, a normalisation after the last."""

    def __init__(
        self,
        width: int,
        depth: int,
        mlp_dim: int,
        num_heads: int,
        use_glu: bool,
        use_post_layer_norm: bool,
    ) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            EncoderBlock(width, mlp_dim, num_heads, use_glu, use_post_layer_norm)
            for _ in range(depth)
        )
        self.encoder_norm = (
            nn.Identity()
            if use_post_layer_norm
            else nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        )

    def forward(self, x: torch.Tensor, dropout_rate: float) -> torch.Tensor:
        """Maps `[B, T, width]` to the same shape."""
        for block in self.net:
            x = block(x, dropout_rate)
        return self.encoder_norm(x)


class PoolingAttention(nn.Module):
    """Multi-head attention of queries to tokens, keys and values in one layer."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        _check_heads(width, num_heads)
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width)
        self.kv_proj = nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, width)
        for layer in (self.q_proj, self.kv_proj, self.out_proj):
            _init_xavier(layer, bias_stddev=_MLP_BIAS_STDDEV)

    def forward(
        self, queries: torch.Tensor, tokens: torch.Tensor, dropout_rate: float
    ) -> torch.Tensor:
        """Maps `[B, Q, width]` and tokens `[B, T, width]` to `[B, Q, width]`."""
        query, key, value = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q_proj(queries), *self.kv_proj(tokens).chunk(2, dim=-1))
        )
        scale = 1 / math.sqrt(query.shape[-1])
        attention = ((query * scale) @ key.transpose(-1, -2)).softmax(dim=-1)
        attention = functional.dropout(attention, dropout_rate, self.training)
        return self.out_proj((attention @ value).transpose(1, 2).flatten(2))


class MapHead(nn.Module):
    """Multi-head attention pooling: a learned query's answer, and an MLP on it."""

    def __init__(self, width: int, mlp_dim: int, num_heads: int) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        nn.init.xavier_uniform_(self.probe)
        self.mha = PoolingAttention(width, num_heads)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = MlpBlock(width, mlp_dim)

    def forward(self, x: torch.Tensor, dropout_rate: float) -> torch.Tensor:
        """Maps `[B, T, width]` to `[B, width]`."""
        x = self.mha(self.probe.expand(len(x), -1, -1), x, dropout_rate)
        return (x + self.mlp(self.layer_norm(x), dropout_rate)).squeeze(1)


class ViT(nn.Module):
    """Vision transformer that pools its tokens and starts with a zero head."""

    # Not a parameter, so not part of `state_dict` either.
    position_embedding: torch.Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: int,
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        mlp_dim: int,
        num_heads: int,
        use_glu: bool = False,
        use_post_layer_norm: bool = False,
        use_map: bool = False,
    ) -> None:
        """Builds the model from torch's global random state.

        Args:
            num_classes: Number of logits.
            image_size: Height and width of the images; a multiple of `patch_size`.
            channels: Channels of the images.
            patch_size: Height and width of a patch.
            width: Size of a token.
            depth: Number of blocks.
            mlp_dim: Size of the hidden layer of each block's MLP.
            num_heads: Number of attention heads; divides `width`.
            use_glu: Whether the MLPs of the blocks are gated.
            use_post_layer_norm: Whether blocks normalise sums, not what parts see.
            use_map: Whether tokens are pooled by attention, not averaged.
        """
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f'Patches of {patch_size} do not tile images of {image_size} pixels.'
            )
        self.conv_patch_extract = nn.Conv2d(
            channels, width, kernel_size=patch_size, stride=patch_size
        )
        self.encoder = Encoder(
            width, depth, mlp_dim, num_heads, use_glu, use_post_layer_norm
        )
        self.pre_logits = nn.Linear(width, width)
        self.head = nn.Linear(width, num_classes)
        self.map = MapHead(width, mlp_dim, num_heads) if use_map else None
        num_patches = image_size // patch_size
        self.register_buffer(
            'position_embedding',
            position_embedding(num_patches, num_patches, width),
            persistent=False,
        )
        _init_lecun(self.conv_patch_extract)
        _init_lecun(self.pre_logits)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor, dropout_rate: float = 0.0) -> torch.Tensor:
        """Maps images `[B, channels, H, W]` to logits `[B, num_classes]`."""
        x = self.conv_patch_extract(x).flatten(2).transpose(1, 2)
        x = x + self.position_embedding
        x = functional.dropout(x, dropout_rate, self.training)
        x = self.encoder(x, dropout_rate)
        x = x.mean(dim=1) if self.map is None else self.map(x, dropout_rate)
        return self.head(torch.tanh(self.pre_logits(x)))
