"""Processes that train beside each other."""

import concurrent.futures
import multiprocessing
import os
import threading


def process_pool(processes: int) -> concurrent.futures.ProcessPoolExecutor:
    """Returns a pool whose processes can train, and which end with this one.

    Args:
      processes: How many there are.
    """
    # A fresh interpreter for each: PyTorch's threads do not survive a fork.
    return concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context('spawn'), initializer=_end_with_parent
    )


def _end_with_parent() -> None:
    """Ends this process when the one that started it has been killed.

    It would go on to the end of its trial otherwise, and if the command is given again
    meanwhile, two processes would write the same files.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
