"""A compiled function that can be compiled before it is called."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax


class Program:
    """A compiled function.

    Its compilation can begin, in another thread, while the caller compiles others. It
    is waited for by the first call.
    """

    def __init__(self, function: jax.stages.Wrapped) -> None:
        """Takes over a function.

        Args:
          function: What `jax.jit` returns.
        """
        self.function = function
        self._is_known = False
        self._compilation: Future[Any] | None = None

    def compile_ahead(self, *args: Any) -> None:
        """Begins to compile for arguments like these, unless that has been done.

        The arguments are not used up, whatever the function would do with them.
        """
        if self._is_known:
            return
        self._is_known = True
        # Tracing is Python, for which threads only get into each other's way. JAX keeps
        # what it lowers, so that a call finds it, with what became of it.
        lowered = self.function.lower(*args)
        thread = ThreadPoolExecutor(max_workers=1)
        self._compilation = thread.submit(lowered.compile)
        thread.shutdown(wait=False)

    def __call__(self, *args: Any) -> Any:
        """Calls the function; compiles it if need be."""
        self._is_known = True
        if self._compilation is not None:
            self._compilation.result()
            self._compilation = None
        return self.function(*args)
