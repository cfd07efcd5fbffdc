"""A workload of AlgoPerf's contract that trains in milliseconds."""

import contextlib

import torch
from torch import nn
from torch.nn import functional

from workloads_overrides import spec

DIM, POSITIONS, CLASSES = 5, 3, 4


class TinyModel(nn.Module):
    """Linear layers over positions, pooled; a normalisation stays with NAdamW."""

    def __init__(self, zero_head=False):
        super().__init__()
        self.first = nn.Linear(DIM, 8)
        self.norm = nn.LayerNorm(8)
        self.second = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, CLASSES)
        if zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        self.hooks_seen = []

    def forward(self, x, dropout_rate=0.0):
        self.hooks_seen.append(len(self.first._forward_hooks))
        x = torch.tanh(self.norm(self.first(x)))
        x = functional.dropout(x, dropout_rate, self.training)
        return self.head(torch.tanh(self.second(x)).mean(1))


class TinyWorkload(spec.Workload):
    """Classifies short sequences; the loss can pass for any type."""

    loss_type = spec.LossType.SOFTMAX_CROSS_ENTROPY
    step_hint = 100

    def __init__(self, loss_type=None, *, zero_head=False, dtype=torch.float32):
        super().__init__()
        self.loss_type = self.loss_type if loss_type is None else loss_type
        self._zero_head = zero_head
        self._dtype = dtype

    def is_output_params(self, param_key):
        return param_key.startswith('head')

    def batch(self, seed=0, n=16, weighted=False):
        """Inputs whose sum decides the class."""
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(n, POSITIONS, DIM, generator=generator, dtype=self._dtype)
        batch = {'inputs': inputs, 'targets': inputs[..., :CLASSES].sum(1).argmax(-1)}
        if weighted:
            batch['weights'] = (torch.arange(n) % 5 != 4).to(self._dtype)
        return batch

    def _build_input_queue(self, *args, **kwargs):
        seed = 0
        while True:
            yield self.batch(seed)
            seed += 1

    def init_model_fn(self, rng):
        torch.manual_seed(int(rng[0]))
        return TinyModel(self._zero_head).to(self._dtype), None

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
        training = mode is spec.ForwardPassMode.TRAIN
        params.train(training)
        with contextlib.nullcontext() if training else torch.no_grad():
            logits = params(
                augmented_and_preprocessed_input_batch['inputs'],
                dropout_rate=dropout_rate,
            )
        return logits, model_state

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        kind = self.loss_type
        if label_batch.is_floating_point():
            one_hot = label_batch
        else:
            one_hot = functional.one_hot(label_batch, CLASSES).to(logits_batch.dtype)
        if kind is spec.LossType.MEAN_SQUARED_ERROR:
            losses = 0.5 * (logits_batch - one_hot).square().sum(-1)
        elif kind is spec.LossType.MEAN_ABSOLUTE_ERROR:
            losses = (logits_batch - one_hot).abs().sum(-1)
        elif kind is spec.LossType.SIGMOID_CROSS_ENTROPY:
            losses = functional.binary_cross_entropy_with_logits(
                logits_batch, one_hot, reduction='none'
            ).sum(-1)
        else:
            losses = functional.cross_entropy(
                logits_batch,
                label_batch,
                reduction='none',
                label_smoothing=label_smoothing,
            )
        count = torch.tensor(float(len(losses)))
        if mask_batch is not None:
            losses, count = losses * mask_batch, mask_batch.sum()
        return {
            'summed': losses.sum(),
            'n_valid_examples': count,
            'per_example': losses,
        }

    def _eval_model_on_split(self, *args, **kwargs):
        raise NotImplementedError

    def loss(self, model, batch):
        """The mean loss of a model in evaluation mode."""
        logits, _ = self.model_fn(
            model, batch, None, spec.ForwardPassMode.EVAL, (0, 0), False
        )
        loss = self.loss_fn(batch['targets'], logits, batch.get('weights'))
        return float(loss['summed'] / loss['n_valid_examples'])
