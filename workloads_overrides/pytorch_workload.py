"""What the offline workloads share in PyTorch."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from workloads_overrides import spec


class PyTorchWorkload(spec.Workload):
    """A workload whose model takes `inputs` and a dropout rate, and has no state."""

    default_dropout_rate: float

    def __init__(self) -> None:
        super().__init__()
        self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')

    def _initialised(
        self,
        rng: spec.RandomState,
        make_model: Callable[[], nn.Module],
        parameter_type: Callable[[str], spec.ParameterType],
    ) -> tuple[nn.Module, None]:
        """Makes the model; the same key gives the same parameters."""
        torch.manual_seed(int(rng[0]))
        model = make_model()
        shapes: Mapping[str, tuple[int, ...]] = {
            name: tuple(parameter.shape) for name, parameter in model.named_parameters()
        }
        self._param_shapes = shapes
        self._param_types = {name: parameter_type(name) for name in shapes}
        return model.to(self._device), None

    def model_fn(
        self,
        params: nn.Module,
        augmented_and_preprocessed_input_batch: spec.Batch,
        model_state: Any,
        mode: spec.ForwardPassMode,
        rng: spec.RandomState,
        update_batch_norm: bool,
        dropout_rate: float | None = None,
    ) -> tuple[torch.Tensor, None]:
        """Returns logits and no state; evaluation records no gradients.

        Args:
          params: The model, which may be wrapped.
          augmented_and_preprocessed_input_batch: Its `inputs` go to the model.
          model_state: None.
          mode: Whether dropout is on.
          rng: Not used: dropout draws from PyTorch's generator.
          update_batch_norm: Not used: there is no batch norm.
          dropout_rate: None for the workload's own.

        Raises:
          ValueError: If there is a model state.
        """
        del rng, update_batch_norm
        if model_state is not None:
            raise ValueError(f'model_state: expected None, got {model_state!r}.')
        # By name, since under AlgoPerf the mode is a member of AlgoPerf's enum.
        is_training = mode.name == spec.ForwardPassMode.TRAIN.name
        if dropout_rate is None:
            dropout_rate = self.default_dropout_rate
        params.train(is_training)
        with contextlib.nullcontext() if is_training else torch.no_grad():
            logits = params(
                augmented_and_preprocessed_input_batch['inputs'],
                dropout_rate=dropout_rate,
            )
        return logits, None
