"""Hands a command over to AlgoPerf's runner where it asks for that."""

import argparse
import os
import sys
from collections.abc import Sequence

_ALGOPERF_RUNNER = 'workloads_overrides.algoperf.submission_runner'


def flags_for_algoperf(arguments: Sequence[str]) -> list[str] | None:
    """Returns the flags for AlgoPerf's runner, None if this project's is to run.

    Args:
        arguments: The flags of the command, without the program's name.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--harness', '-harness')
    known, others = parser.parse_known_args(arguments)
    return others if known.harness == 'algoperf' else None


def hand_over_if_asked(arguments: Sequence[str]) -> None:
    """Becomes AlgoPerf's runner if the flags say `--harness=algoperf`.

    A new program, since the two runners define flags of the same names.

    Args:
        arguments: The flags of the command, without the program's name.
    """
    others = flags_for_algoperf(arguments)
    if others is not None:
        command = [sys.executable, '-m', _ALGOPERF_RUNNER, *others]
        os.execv(sys.executable, command)
