"""What went wrong with which method, so that the others go on."""

import contextlib
import traceback
from collections.abc import Iterator

from absl import logging


class Failures(dict[str, str]):
    """Name of a method to the reason why it does not run."""

    @contextlib.contextmanager
    def catching(self, name: str) -> Iterator[None]:
        """Turns an error into the reason why a method does not run.

        Args:
          name: Name of the method.
        """
        try:
            yield
        # Whatever another library raises is what there is to say about it.
        except Exception as error:
            logging.warning('%s does not run:\n%s', name, traceback.format_exc())
            self[name] = _reason(error)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'
