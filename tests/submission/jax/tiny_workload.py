"""Workloads of AlgoPerf's contract, in Flax, that train in milliseconds."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from workloads_overrides import spec

DIM, POSITIONS, CLASSES = 5, 3, 4


class TinyModel(nn.Module):
    """Dense layers over positions, pooled; a normalisation stays with NAdamW."""

    zero_head: bool = False
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x, train, dropout_rate):
        x = nn.Dense(8, name='first')(x)
        if self.batch_norm:
            x = nn.BatchNorm(not train, name='norm')(x)
        else:
            x = nn.LayerNorm(name='norm')(x)
        x = nn.Dropout(dropout_rate, deterministic=not train)(nn.tanh(x))
        x = nn.Dense(8, use_bias=False, name='second')(x)
        zeros = nn.initializers.zeros_init()
        init = {'kernel_init': zeros} if self.zero_head else {}
        return nn.Dense(CLASSES, name='head', **init)(nn.tanh(x).mean(1))


class TinyTokenModel(nn.Module):
    """Says a token for each position."""

    @nn.compact
    def __call__(self, tokens, train, dropout_rate):
        del train, dropout_rate
        x = nn.Embed(CLASSES, 8, name='embedding')(tokens)
        return nn.Dense(CLASSES, name='head')(nn.tanh(nn.Dense(8, name='first')(x)))


class Graphs(NamedTuple):
    """The fields of jraph's tuples that matter here."""

    nodes: Any
    edges: Any
    senders: Any
    receivers: Any
    n_node: Any
    n_edge: Any


class TinyGraphModel(nn.Module):
    """One round of messages, then a sum over the nodes of each graph."""

    @nn.compact
    def __call__(self, graphs, train, dropout_rate):
        del train, dropout_rate
        nodes, n_nodes = graphs.nodes, len(graphs.nodes)
        ends = [nodes[graphs.senders], nodes[graphs.receivers]]
        messages = jnp.concatenate([graphs.edges, *ends], -1)
        messages = nn.tanh(nn.Dense(6, name='edge')(messages))
        received = jax.ops.segment_sum(messages, graphs.receivers, n_nodes)
        nodes = jnp.concatenate([nodes, received], -1)
        nodes = nn.tanh(nn.Dense(6, name='node')(nodes))
        numbers = jnp.arange(len(graphs.n_node))
        of_node = jnp.repeat(numbers, graphs.n_node, total_repeat_length=n_nodes)
        pooled = jax.ops.segment_sum(nodes, of_node, len(graphs.n_node))
        return nn.Dense(CLASSES, name='head')(pooled)


class TinyWorkload(spec.Workload):
    """Classifies short sequences; the loss can pass for any type."""

    step_hint = 100

    def __init__(self, loss_type=None, model=None):
        super().__init__()
        softmax = spec.LossType.SOFTMAX_CROSS_ENTROPY
        self.loss_type = softmax if loss_type is None else loss_type
        self.model = TinyModel() if model is None else model
        self.forward_passes_traced = 0

    def is_output_params(self, param_key):
        return param_key.startswith('head')

    def batch(self, seed=0, n=16, weighted=False):
        """Inputs whose sum decides the class."""
        inputs = np.random.default_rng(seed).standard_normal((n, POSITIONS, DIM))
        inputs = inputs.astype(np.float32)
        batch = {'inputs': inputs, 'targets': inputs[..., :CLASSES].sum(1).argmax(-1)}
        if weighted:
            batch['weights'] = (np.arange(n) % 5 != 4).astype(np.float32)
        return batch

    def _build_input_queue(self, *args, **kwargs):
        seed = 0
        while True:
            yield self.batch(seed)
            seed += 1

    def init_model_fn(self, rng):
        variables = self.model.init({'params': rng}, self.batch()['inputs'], False, 0.0)
        params = variables.pop('params')
        return params, variables or None

    def model_fn(
        self,
        params,
        augmented_and_preprocessed_input_batch,
        model_state,
        mode,
        rng,
        update_batch_norm,
        dropout_rate=0.0,
    ):
        self.forward_passes_traced += 1
        training = mode is spec.ForwardPassMode.TRAIN
        outputs, updated = self.model.apply(
            {'params': params, **(model_state or {})},
            augmented_and_preprocessed_input_batch['inputs'],
            training,
            dropout_rate,
            rngs={'dropout': rng} if training else {},
            mutable=['batch_stats'] if training and update_batch_norm else [],
        )
        return outputs, dict(updated) or model_state

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        kind = self.loss_type
        one_hot = label_batch
        if not jnp.issubdtype(label_batch.dtype, jnp.floating):
            one_hot = jax.nn.one_hot(label_batch, CLASSES, dtype=logits_batch.dtype)
        if kind is spec.LossType.MEAN_SQUARED_ERROR:
            losses = 0.5 * ((logits_batch - one_hot) ** 2).sum(-1)
        elif kind is spec.LossType.SIGMOID_CROSS_ENTROPY:
            losses = optax.sigmoid_binary_cross_entropy(logits_batch, one_hot).sum(-1)
        else:
            one_hot = optax.smooth_labels(one_hot, label_smoothing)
            losses = optax.softmax_cross_entropy(logits_batch, one_hot)
        count = jnp.asarray(float(losses.size))
        if mask_batch is not None:
            losses, count = losses * mask_batch, mask_batch.sum()
        return {
            'summed': losses.sum(),
            'n_valid_examples': count,
            'per_example': losses,
        }

    def _eval_model_on_split(self, *args, **kwargs):
        raise NotImplementedError

    def loss(self, params, model_state, batch):
        """The mean loss in evaluation mode."""
        outputs, _ = self.model_fn(
            params, batch, model_state, spec.ForwardPassMode.EVAL, None, False
        )
        loss = self.loss_fn(batch['targets'], outputs, batch.get('weights'))
        return float(loss['summed'] / loss['n_valid_examples'])


class TinyTokenWorkload(TinyWorkload):
    """Repeats its input; the ends of the sequences are padding."""

    def __init__(self):
        super().__init__(model=TinyTokenModel())

    def batch(self, seed=0, n=16, weighted=True):
        generator = np.random.default_rng(seed)
        tokens = generator.integers(1, CLASSES, (n, 6))
        tokens[np.arange(6) >= generator.integers(1, 7, (n, 1))] = 0
        weights = (tokens != 0).astype(np.float32)
        return {'inputs': tokens, 'targets': tokens, 'weights': weights}


class TinyGraphWorkload(TinyWorkload):
    """Classifies graphs of different sizes; the last of a batch is padding."""

    def __init__(self):
        super().__init__(model=TinyGraphModel())

    def batch(self, seed=0, n=8, weighted=True):
        n_nodes, n_edges, dim = 6 * n, 8 * n, 3
        generator = np.random.default_rng(seed)
        n_node = generator.integers(2, 6, n)
        # One graph has no edge.
        n_edge = generator.integers(1, 7, n) * (np.arange(n) != 1)
        n_node[-1] = n_nodes - n_node[:-1].sum()
        n_edge[-1] = n_edges - n_edge[:-1].sum()
        first = np.repeat(n_node.cumsum() - n_node, n_edge)
        size = np.repeat(n_node, n_edge)
        nodes = generator.standard_normal((n_nodes, dim))
        of_node = np.repeat(np.arange(n), n_node)
        means = np.stack([nodes[of_node == i].mean(0) for i in range(n)])
        return {
            'inputs': Graphs(
                nodes.astype(np.float32),
                generator.standard_normal((n_edges, 3)).astype(np.float32),
                first + generator.integers(0, size),
                first + generator.integers(0, size),
                n_node,
                n_edge,
            ),
            'targets': means.argmax(-1),
            'weights': (np.arange(n) < n - 1).astype(np.float32),
        }


class TinyPairWorkload(TinyWorkload):
    """Returns its logits with something else, as speech models do."""

    def __init__(self, kind=tuple):
        super().__init__(spec.LossType.CTC_LOSS)
        self._kind = kind

    def model_fn(self, *args, **kwargs):
        logits, model_state = super().model_fn(*args, **kwargs)
        paddings = jnp.zeros(len(logits))
        if self._kind is dict:
            return {'logits': logits, 'paddings': paddings}, model_state
        return (logits, paddings), model_state

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        logits = logits_batch['logits'] if self._kind is dict else logits_batch[0]
        return super().loss_fn(label_batch, logits, mask_batch, label_smoothing)
