"""The workload in JAX."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from workloads_overrides import spec
from workloads_overrides.jax_workload import JaxWorkload, Params
from workloads_overrides.ogbg_chembl.featurise import (
    NUM_ATOM_FEATURES,
    NUM_BOND_FEATURES,
)
from workloads_overrides.ogbg_chembl.graph_batches import (
    Batch,
    EvaluationQueue,
    GraphsTuple,
    TrainingQueue,
)
from workloads_overrides.ogbg_chembl.jax_model import GraphNetwork
from workloads_overrides.ogbg_chembl.workload import (
    DROPOUT_RATE,
    BaseOgbgChemblWorkload,
    EvaluatedBatch,
    FullSize,
    Gelu,
)


class JaxQueue(Iterator[Batch]):
    """The batches of a queue with the types that the loss takes."""

    def __init__(self, queue: TrainingQueue | EvaluationQueue) -> None:
        self.queue = queue

    def __next__(self) -> Batch:
        batch = next(self.queue)
        return {**batch, 'weights': batch['weights'].astype(bool)}

    def skip(self, num_batches: int) -> None:
        """Passes over batches without building them."""
        self.queue.skip(num_batches)


class OgbgChemblWorkload(JaxWorkload, BaseOgbgChemblWorkload):
    """The default size, for a CPU."""

    default_dropout_rate = DROPOUT_RATE

    def _build_input_queue(
        self,
        data_rng: spec.RandomState,
        split: str,
        data_dir: str | None,
        global_batch_size: int,
        cache: bool | None = None,
        repeat_final_dataset: bool | None = None,
        num_batches: int | None = None,
    ) -> JaxQueue:
        """Returns batches of numpy arrays: 'inputs', 'targets' and 'weights'.

        They hold the graphs that the PyTorch workload's hold for the same key. With
        several devices there is more padding, so that each gets as many rows.
        """
        # The data is in memory already and every queue is endless.
        del cache, repeat_final_dataset, num_batches
        return JaxQueue(
            self._graph_queue(
                data_rng, split, data_dir, global_batch_size, jax.device_count()
            )
        )

    def init_model_fn(self, rng: spec.RandomState) -> tuple[Params, None]:
        """Returns new parameters; the same key gives the same ones."""
        model = GraphNetwork(
            num_outputs=self.num_outputs,
            latent_dim=self.latent_dim,
            hidden_dims=self.hidden_dims,
            num_message_passing_steps=self.num_message_passing_steps,
            activation_fn_name=self.activation_fn_name,
        )
        one_loop = GraphsTuple(
            nodes=jnp.ones((1, NUM_ATOM_FEATURES)),
            edges=jnp.ones((1, NUM_BOND_FEATURES)),
            receivers=jnp.zeros(1, jnp.int32),
            senders=jnp.zeros(1, jnp.int32),
            globals=None,
            n_node=jnp.ones(1, jnp.int32),
            n_edge=jnp.ones(1, jnp.int32),
        )
        # AlgoPerf's ogbg takes the second key, its imagenet_vit the first.
        params_rng = jax.random.split(rng)[1]
        return self._initialised(params_rng, model, one_loop)

    def is_output_params(self, param_key: str) -> bool:
        """Whether a layer, named by the first key of its parameters, is the decoder."""
        num_hidden = 3 * len(self.hidden_dims) * self.num_message_passing_steps
        return param_key == f'Dense_{num_hidden}'

    def loss_fn(
        self,
        label_batch: jax.Array,
        logits_batch: jax.Array,
        mask_batch: jax.Array | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, jax.Array]:
        """Returns the sigmoid cross entropy of the labels that exist.

        Args:
            label_batch: 0 or 1, anything where the mask is false, `[n, n_tasks]`.
            logits_batch: `[n, n_tasks]`.
            mask_batch: where there is a label, `[n, n_tasks]`; None for everywhere.
            label_smoothing: weight of the uniform distribution over the tasks,
                AlgoPerf's rule for this workload: labels move towards
                1 / n_tasks, although each task is a binary choice.

        Returns:
            'summed', a scalar; 'n_valid_examples', the number of labels, a scalar;
            'per_example', `[n, n_tasks]`, 0 where there is no label.
        """
        if mask_batch is None:
            mask_batch = jnp.ones(label_batch.shape, bool)
        if not label_batch.shape == logits_batch.shape == mask_batch.shape:
            raise ValueError(
                f'Labels {label_batch.shape}, logits {logits_batch.shape} and mask '
                f'{mask_batch.shape} must have the same shape.'
            )
        mask = jnp.asarray(mask_batch, bool)
        labels = jnp.where(mask, label_batch, 0).astype(logits_batch.dtype)
        labels = optax.smooth_labels(labels, label_smoothing)
        losses = optax.sigmoid_binary_cross_entropy(logits_batch, labels)
        losses = jnp.where(mask, losses, 0)
        return {
            'summed': losses.sum(),
            'n_valid_examples': mask.sum(),
            'per_example': losses,
        }

    def _evaluate_batch(
        self, params: Params, batch: spec.Batch
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the logits `[n_graph, n_tasks]` and the summed loss."""
        logits = self._evaluation_logits(params, batch)
        loss = self.loss_fn(batch['targets'], logits, batch['weights'])
        return logits, loss['summed']

    def _evaluated(
        self, params: Params, batch: spec.Batch, rng: spec.RandomState
    ) -> EvaluatedBatch:
        del rng
        logits, summed_loss = self._jitted_evaluate_batch(params, batch)
        return EvaluatedBatch(
            np.asarray(logits), batch['targets'], batch['weights'], summed_loss.item()
        )


class OgbgChemblFullWorkload(FullSize, OgbgChemblWorkload):
    """`ogbg_chembl_full`: the size of AlgoPerf's ogbg model, for a GPU."""


class OgbgChemblGeluWorkload(Gelu, OgbgChemblWorkload):
    """`ogbg_chembl_gelu`: the default size with another activation."""
