"""States of the global random number generators, which dropout and others use."""

import random
from typing import Any

import numpy as np
import torch


def seed(value: int) -> None:
    """Seeds the generators."""
    torch.manual_seed(value)
    # numpy takes seeds of 32 bits.
    np.random.seed(value % 2**32)
    random.seed(value)


def get_state() -> dict[str, Any]:
    """Returns the states in types that checkpoints can hold."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        # Plain tensors and numbers, since checkpoints load nothing else.
        'numpy': (
            name,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        'python': random.getstate(),
    }


def set_state(state: dict[str, Any]) -> None:
    """Sets the generators to states that `get_state` returned."""
    torch.set_rng_state(state['torch'])
    if torch.cuda.is_available() and state['cuda']:
        torch.cuda.set_rng_state_all(state['cuda'])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state['python'])
