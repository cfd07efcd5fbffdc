"""Random keys for PyTorch: pairs of integers from numpy.

AlgoPerf's runner draws its keys this way when it runs PyTorch, so a run under
the built-in training loop sees the initial parameters and the data order that
it would see under AlgoPerf's.
"""

from collections.abc import Sequence

import numpy as np

# numpy's legacy generator takes seeds below 2**32 and draws signed integers;
# AlgoPerf keeps both sides within the positive int32 range.
_LIMIT = 2**31 - 1


def _generator(key: int | Sequence[int] | np.ndarray) -> np.random.RandomState:
    seed = np.asarray(key, dtype=np.int64) % _LIMIT
    return np.random.RandomState(int(seed) if seed.ndim == 0 else seed)


def split(key: int | Sequence[int] | np.ndarray, num: int = 2) -> np.ndarray:
    """Returns `num` new keys, an integer array of shape `[num, 2]`."""
    return _generator(key).randint(0, _LIMIT, dtype=np.int32, size=[num, 2])


def fold_in(key: int | Sequence[int] | np.ndarray, data: int) -> list[int]:
    """Returns the key of step `data` under `key`."""
    return [int(_generator(key).randint(0, _LIMIT, dtype=np.int32)), data]


def prng_key(seed: int) -> np.ndarray:
    """Returns the first key of a run."""
    return split(seed, num=2)[0]
