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
        if width % num_heads:
            raise ValueError(
                f'The width {width} is not a multiple of the {num_heads} heads.'
            )
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

    def __init__(self, width: int, mlp_dim: int, use_glu: bool) -> None:
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
    """Pre-norm transformer block; the names count the parts as AlgoPerf's do."""

    def __init__(self, width: int, mlp_dim: int, num_heads: int, use_glu: bool) -> None:
        super().__init__()
        self.layer_norm0 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.self_attention1 = SelfAttention(width, num_heads)
        self.layer_norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp3 = MlpBlock(width, mlp_dim, use_glu)

    def forward(self, x: torch.Tensor, dropout_rate: float) -> torch.Tensor:
        """Maps `[B, T, width]` to the same shape."""
        y = self.self_attention1(self.layer_norm0(x), dropout_rate)
        x = x + functional.dropout(y, dropout_rate, self.training)
        y = self.mlp3(self.layer_norm2(x), dropout_rate)
        return x + functional.dropout(y, dropout_rate, self.training)


class Encoder(nn.Module):
    """Transformer blocks and the normalisation after the last of them."""

    def __init__(
        self, width: int, depth: int, mlp_dim: int, num_heads: int, use_glu: bool
    ) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            EncoderBlock(width, mlp_dim, num_heads, use_glu) for _ in range(depth)
        )
        self.encoder_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x: torch.Tensor, dropout_rate: float) -> torch.Tensor:
        """Maps `[B, T, width]` to the same shape."""
        for block in self.net:
            x = block(x, dropout_rate)
        return self.encoder_norm(x)


class ViT(nn.Module):
    """Vision transformer that averages its tokens and starts with a zero head."""

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
        """
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f'Patches of {patch_size} do not tile images of {image_size} pixels.'
            )
        self.conv_patch_extract = nn.Conv2d(
            channels, width, kernel_size=patch_size, stride=patch_size
        )
        self.encoder = Encoder(width, depth, mlp_dim, num_heads, use_glu)
        self.pre_logits = nn.Linear(width, width)
        self.head = nn.Linear(width, num_classes)
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
        x = self.encoder(x, dropout_rate).mean(dim=1)
        return self.head(torch.tanh(self.pre_logits(x)))
