"""Replaces a name in a module of AlgoPerf for the time of a call."""

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Gives `module.name` another value within the block.

    For what AlgoPerf's methods take from their module and not from `self`, which a
    subclass cannot override.

    Raises:
        AttributeError: If the module has no such name, which would mean that
            AlgoPerf has changed and that the replacement does nothing.
    """
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
