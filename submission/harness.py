"""What the submission needs to know of the harness without importing it."""

import sys
from typing import Any

import numpy as np


def training_mode(workload: Any) -> Any:
    """Returns the member `TRAIN` of the workload's own `ForwardPassMode`.

    A workload's `model_fn` compares its mode with an enum of the harness that the
    workload belongs to. That enum is defined beside the workload's `LossType`.

    Raises:
      AttributeError: If the workload's `loss_type` comes from a module without
        `ForwardPassMode`.
    """
    module_name = type(workload.loss_type).__module__
    module = sys.modules[module_name]
    try:
        return module.ForwardPassMode.TRAIN
    except AttributeError:
        raise AttributeError(
            f'{type(workload).__name__}.loss_type is defined in {module_name}, which '
            'has no ForwardPassMode; a workload takes both from one module.'
        ) from None


def seed_from(rng: Any, stream: str, rank: int = 0) -> int:
    """Returns a seed for a framework's generator from AlgoPerf's key.

    Args:
      rng: Two integers, as AlgoPerf passes them to PyTorch submissions.
      stream: What the numbers are for; streams are independent of each other.
      rank: Process rank; each rank draws its own numbers.

    Returns:
      An integer of 32 bits, which is all that PyTorch's generator for the CPU heeds.
    """
    words = [int(part) & 0xFFFFFFFF for part in rng]
    entropy = [*words, rank, *stream.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
