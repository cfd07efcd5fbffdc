import os
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

from experiments.processes import process_pool

# The number of its process, then nothing for longer than the test waits.
_START = """
import pathlib, sys, tests.experiments.test_processes as this
if __name__ == '__main__':
    with this.process_pool(1) as pool:
        pool.submit(this.wait_for_ever, pathlib.Path(sys.argv[1])).result()
"""


def wait_for_ever(path):
    path.with_suffix('.part').write_text(str(os.getpid()))
    path.with_suffix('.part').rename(path)
    time.sleep(600)


def _until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_works():
    with process_pool(2) as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_ends_when_the_parent_is_killed(tmp_path, number):
    path = tmp_path / 'process'
    start = tmp_path / 'start.py'
    start.write_text(_START)
    root = pathlib.Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(start), str(path)],
        cwd=root,
        env={**os.environ, 'PYTHONPATH': str(root)},
    )
    try:
        assert _until(path.exists)
        worker = psutil.Process(int(path.read_text()))
        parent.send_signal(number)
        parent.wait()
        assert _until(lambda: not worker.is_running())
    finally:
        parent.kill()
