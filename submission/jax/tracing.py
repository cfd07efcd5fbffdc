"""What K-FAC has to know of how JAX traces the functions of a model."""

import itertools
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

_numbers = itertools.count()
# JAX before 0.8 has none. They have to be made before anything is traced.
_context = jax.make_user_context(None) if hasattr(jax, 'make_user_context') else None


def traced_anew() -> AbstractContextManager[Any]:
    """Returns a context that shares no traces with what is outside of it.

    JAX traces a function that is compiled within a model (`jax.jit`, `nn.jit`) once
    and then remembers what it does. Interceptors of Flax are not part of what it
    remembers this by: a trace from a pass without them would have no probes, and one
    from a pass with them would bring values of that pass into another.

    What is traced inside is compiled anew too, so it should be part of a larger
    compiled function.
    """
    if _context is not None:
        return _context(object())
    return set_xla_metadata(kfac=str(next(_numbers)))


# JAX has no public names for the classes of traced values.


def is_mapped(value: Any) -> bool:
    """Returns whether a `vmap` hides an axis of a value, or of any array in it."""
    return any(type(leaf).__name__ == 'BatchTracer' for leaf in jax.tree.leaves(value))


def is_traced_apart(value: Any) -> bool:
    """Returns whether an output of a layer is one of a function traced by itself.

    Such are the body of a scan, which runs several times, and what is in `nn.remat`
    or compiled within the model, while the model is being differentiated.
    """
    return type(value).__name__ == 'DynamicJaxprTracer'
