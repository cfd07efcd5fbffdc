"""States of the global random number generators, which dropout and others use."""

import random
from typing import Any

import numpy as np

from workloads_overrides.runner.frameworks import Framework


def seed(framework: Framework, value: int) -> None:
    """Seeds the generators of the framework, numpy and Python."""
    framework.seed(value)
    # numpy takes seeds of 32 bits.
    np.random.seed(value % 2**32)
    random.seed(value)


def get_state(framework: Framework) -> dict[str, Any]:
    """Returns the states in types that checkpoints can hold."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        **framework.generator_states(),
        # Plain numbers, since not every checkpoint holds numpy's arrays.
        'numpy': (
            name,
            np.asarray(keys).tolist(),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        'python': random.getstate(),
    }


def set_state(framework: Framework, state: dict[str, Any]) -> None:
    """Sets the generators to states that `get_state` returned."""
    framework.set_generator_states(state)
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    version, words, next_gauss = state['python']
    # Python insists on tuples, which a checkpoint may have turned into lists.
    random.setstate((version, tuple(words), next_gauss))
