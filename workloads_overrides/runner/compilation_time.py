"""How long JAX has compiled, from the events that it reports itself."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax

# Tracing, lowering and XLA's compilation each report under a name that starts so.
_EVENT_PREFIX = '/jax/core/compile/'


class CompilationTime:
    """Adds up the durations of compilation events; nested ones count once.

    A function is traced while the one that calls it is, and both report.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts at nothing.

        Args:
            clock: Returns seconds.
        """
        self._clock = clock
        # Ends and lengths of spans that no later span has covered so far.
        self._spans: list[tuple[float, float]] = []

    @classmethod
    @functools.cache
    def of_this_process(cls) -> 'CompilationTime':
        """Returns the one that JAX reports to; it counts from the first call on."""
        counted = cls()
        # There is no way to stop listening, hence only one of these.
        jax.monitoring.register_event_duration_secs_listener(counted.add)
        return counted

    @property
    def seconds(self) -> float:
        """Seconds spent on compiling so far."""
        return sum(length for _, length in self._spans)

    def add(self, event: str, duration_secs: float, **_: Any) -> None:
        """Adds an event that ends now.

        Args:
            event: Name of the event.
            duration_secs: Its length in seconds.
        """
        if not event.startswith(_EVENT_PREFIX):
            return
        end = self._clock()
        while self._spans and self._spans[-1][0] > end - duration_secs:
            self._spans.pop()
        self._spans.append((end, duration_secs))
