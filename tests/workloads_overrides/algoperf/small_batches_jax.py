"""The submission with batches that a CPU can take with a stock model."""

from submission.jax_submission import (
    data_selection,
    init_optimizer_state,
    prepare_for_eval,
    update_params,
)

__all__ = [
    'data_selection',
    'get_batch_size',
    'init_optimizer_state',
    'prepare_for_eval',
    'update_params',
]


def get_batch_size(workload_name):
    del workload_name
    return 16
