"""Runs a module as a command."""

import sys
from collections.abc import Callable

from absl import app, logging


def run(main: Callable[[], None]) -> None:
    """Parses the flags and runs a command.

    What the user can put right, a wrong value or a missing file, ends it with one line
    and status 1. With `--verbosity=1` there is a traceback instead.

    Args:
      main: The command; it raises ValueError or OSError for what the user can put
        right.
    """

    def run_main(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(f'Error: not a flag: {" ".join(argv[1:])}')
        # The command may set another verbosity.
        shows_traceback = logging.get_verbosity() >= logging.DEBUG
        try:
            main()
        except (OSError, ValueError) as error:
            if shows_traceback:
                raise
            sys.exit(f'Error: {error}')

    app.run(run_main)
