"""The rivals as an AlgoPerf submission in PyTorch, for one process.

Loss, dropout and data are those of the K-FAC submission; only what is done with the
gradient differs.
"""

from collections.abc import Mapping
from typing import Any

import torch

from experiments.rivals.optimizers import Optimizers
from experiments.rivals.settings import RivalSettings
from submission.harness import seed_from, training_mode
from submission.pytorch_submission import data_selection
from submission.settings import get_batch_size

__all__ = [
    'data_selection',
    'get_batch_size',
    'init_optimizer_state',
    'prepare_for_eval',
    'update_params',
]


def init_optimizer_state(
    workload: Any,
    model_params: torch.nn.Module,
    model_state: Any,
    hyperparameters: Any,
    rng: Any,
) -> dict[str, Any]:
    """Returns the optimiser's state; every value has `state_dict`."""
    del model_state, rng
    settings = RivalSettings.from_hyperparameters(hyperparameters)
    return {
        'optimizers': Optimizers(
            model_params, settings, workload.step_hint, workload.is_output_params
        )
    }


def update_params(
    workload: Any,
    current_param_container: torch.nn.Module,
    current_params_types: Any,
    model_state: Any,
    hyperparameters: Any,
    batch: Mapping[str, Any],
    loss_type: Any,
    optimizer_state: dict[str, Any],
    eval_results: Any,
    global_step: int,
    rng: Any,
) -> tuple[dict[str, Any], torch.nn.Module, Any]:
    """Takes one training step; see AlgoPerf's documentation for the arguments."""
    del current_params_types, hyperparameters, loss_type, eval_results
    optimizers: Optimizers = optimizer_state['optimizers']
    settings = optimizers.settings
    torch.manual_seed(seed_from(rng, 'dropout', 0))
    optimizers.set_training(True)
    optimizers.zero_grad()
    outputs, model_state = workload.model_fn(
        params=current_param_container,
        augmented_and_preprocessed_input_batch=batch,
        model_state=model_state,
        mode=training_mode(workload),
        rng=rng,
        update_batch_norm=True,
        dropout_rate=settings.dropout_rate,
    )
    loss = workload.loss_fn(
        label_batch=batch['targets'],
        logits_batch=outputs,
        mask_batch=batch.get('weights'),
        label_smoothing=settings.label_smoothing,
    )
    (loss['summed'] / loss['n_valid_examples']).backward()
    optimizers.step(global_step)
    return optimizer_state, current_param_container, model_state


def prepare_for_eval(
    workload: Any,
    current_param_container: torch.nn.Module,
    current_params_types: Any,
    model_state: Any,
    hyperparameters: Any,
    loss_type: Any,
    optimizer_state: dict[str, Any],
    eval_results: Any,
    global_step: int,
    rng: Any,
) -> tuple[dict[str, Any], torch.nn.Module, Any]:
    """Moves Schedule-Free's parameters to their average."""
    del workload, current_params_types, hyperparameters, loss_type, eval_results
    del global_step, rng
    optimizer_state['optimizers'].set_training(False)
    return optimizer_state, current_param_container, model_state
