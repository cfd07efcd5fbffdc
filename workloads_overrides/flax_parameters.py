"""Parameters of the PyTorch models as those of the Flax models, and back.

Everything is a numpy array of the type that the parameters have. A PyTorch linear
layer holds `[out, in]`, Flax's dense layer `[in, out]`.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Path = tuple[str, ...]
Tree = dict[str, Any]

_ATTENTION = 'MultiHeadDotProductAttention_1'
_VIT_BLOCK = {
    'layer_norm0': ('LayerNorm_0',),
    'self_attention1.query': (_ATTENTION, 'query'),
    'self_attention1.key': (_ATTENTION, 'key'),
    'self_attention1.value': (_ATTENTION, 'value'),
    'self_attention1.out': (_ATTENTION, 'out'),
    'layer_norm2': ('LayerNorm_2',),
    'mlp3.linear1': ('MlpBlock_3', 'Dense_0'),
    'mlp3.linear2': ('MlpBlock_3', 'Dense_1'),
}
# The gate comes between the two.
_GATED_VIT_BLOCK = {
    **_VIT_BLOCK,
    'mlp3.glu_linear': ('MlpBlock_3', 'Dense_1'),
    'mlp3.linear2': ('MlpBlock_3', 'Dense_2'),
}
_VIT_REST = {
    'conv_patch_extract': ('conv_patch_extract',),
    'encoder.encoder_norm': ('Transformer', 'encoder_layernorm'),
    'pre_logits': ('pre_logits',),
    'head': ('head',),
}


def gnn_path(layer: str, num_hidden: int = 1) -> Path:
    """Returns the Flax path of a layer of the PyTorch GNN.

    Args:
        layer: Name of the layer, any but the decoder.
        num_hidden: Hidden layers of each update function.
    """
    names = {'node_embedder': 'node_embedding', 'edge_embedder': 'edge_embedding'}
    if layer in names:
        return (names[layer],)
    match = re.fullmatch(
        r'graph_network\.(\d+)\.update_(edge|node|global)_fn\.(dense|norm)_(\d+)', layer
    )
    if match is None:
        raise ValueError(f'The GNN has no layer {layer!r}.')
    function = 3 * int(match[1]) + ('edge', 'node', 'global').index(match[2])
    index = num_hidden * function + int(match[4])
    return (f'{"Dense" if match[3] == "dense" else "LayerNorm"}_{index}',)


def vit_path(layer: str, gated: bool = False) -> Path:
    """Returns the Flax path of a layer of the PyTorch ViT.

    Args:
        layer: Name of the layer.
        gated: Whether the MLPs of the blocks are.
    """
    if layer in _VIT_REST:
        return _VIT_REST[layer]
    block = _GATED_VIT_BLOCK if gated else _VIT_BLOCK
    match = re.fullmatch(r'encoder\.net\.(\d+)\.(.*)', layer)
    if match is None or match[2] not in block:
        raise ValueError(f'The ViT has no layer {layer!r}.')
    return ('Transformer', f'encoderblock_{match[1]}', *block[match[2]])


def _array(value: Any) -> Any:
    return value.numpy(force=True).copy() if hasattr(value, 'numpy') else value


def _to_flax(
    path: Path, kind: str, array: Any, num_heads: int | None
) -> tuple[str, Any]:
    """Returns the Flax name and array of a PyTorch parameter."""
    if 'norm' in path[-1].lower():
        return ('bias' if kind == 'bias' else 'scale'), array
    if _ATTENTION in path and path[-1] != 'out':
        # The heads are split off the outputs.
        if kind == 'bias':
            return kind, array.reshape(num_heads, -1)
        return 'kernel', array.T.reshape(len(array.T), num_heads, -1)
    if kind == 'bias':
        return kind, array
    if _ATTENTION in path:
        return 'kernel', array.T.reshape(num_heads, -1, len(array))
    # Channels first to channels last.
    return 'kernel', array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_pytorch(path: Path, kind: str, array: Any) -> tuple[str, Any]:
    """Undoes `_to_flax`."""
    if 'norm' in path[-1].lower():
        return ('bias' if kind == 'bias' else 'weight'), array
    if kind == 'bias':
        return kind, array.reshape(-1)
    if array.ndim == 4:
        return 'weight', array.transpose(3, 2, 0, 1)
    if _ATTENTION in path:
        rows = -1 if path[-1] == 'out' else len(array)
        array = array.reshape(rows, array.shape[-1] if rows == -1 else -1)
    return 'weight', array.T


def _tree(
    state_dict: Mapping[str, Any],
    path_of: Callable[[str], Path],
    num_heads: int | None = None,
) -> Tree:
    tree: Tree = {}
    for name, value in state_dict.items():
        layer, kind = name.rsplit('.', 1)
        path = path_of(layer)
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        key, array = _to_flax(path, kind, _array(value), num_heads)
        branch[key] = array
    return tree


def gnn_decoder(num_steps: int, num_hidden: int = 1) -> str:
    """Returns the name of the GNN's last layer in Flax."""
    return f'Dense_{3 * num_steps * num_hidden}'


def _gnn_path_with_decoder(names: Iterable[str]) -> Callable[[str], Path]:
    """Returns the paths of the GNN that has parameters of these names."""
    parts = [name.split('.') for name in names if name.startswith('graph_network')]
    num_steps, num_hidden = len({p[1] for p in parts}), len({p[3][-1] for p in parts})

    def path_of(layer: str) -> Path:
        if layer == 'decoder':
            return (gnn_decoder(num_steps, num_hidden),)
        return gnn_path(layer, num_hidden)

    return path_of


def _vit_path_of(names: Iterable[str]) -> Callable[[str], Path]:
    """Returns the paths of the ViT that has parameters of these names."""
    gated = any('.glu_linear.' in name for name in names)
    return functools.partial(vit_path, gated=gated)


def gnn_params(state_dict: Mapping[str, Any]) -> Tree:
    """Returns the Flax parameters of a PyTorch GNN.

    Args:
        state_dict: Name to tensor or array, all of a model; gradients do as well.
    """
    return _tree(state_dict, _gnn_path_with_decoder(state_dict))


def vit_params(state_dict: Mapping[str, Any], num_heads: int) -> Tree:
    """Returns the Flax parameters of a PyTorch ViT; arguments as for the GNN."""
    return _tree(state_dict, _vit_path_of(state_dict), num_heads)


def _state_dict(
    tree: Mapping[str, Any], names: Iterable[str], path_of: Callable[[str], Path]
) -> dict[str, Any]:
    state_dict = {}
    for name in names:
        layer, kind = name.rsplit('.', 1)
        path = path_of(layer)
        branch: Any = tree
        for part in path:
            branch = branch[part]
        for key, value in branch.items():
            found, array = _to_pytorch(path, key, np.asarray(value))
            if found == kind:
                state_dict[name] = np.ascontiguousarray(array)
    return state_dict


def gnn_state_dict(params: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Returns PyTorch name to array from a tree of Flax parameters of the GNN.

    Args:
        params: The tree.
        names: The parameter names of the PyTorch model.
    """
    return _state_dict(params, names, _gnn_path_with_decoder(names))


def vit_state_dict(params: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Returns PyTorch name to array from a tree of Flax parameters of the ViT."""
    return _state_dict(params, names, _vit_path_of(names))
