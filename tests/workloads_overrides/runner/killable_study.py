"""Runs the short study of the resume tests in a process that can be killed."""

import sys
import time

from tests.workloads_overrides.runner import fakes
from workloads_overrides import registry
from workloads_overrides.runner.study import run_study

# Slow enough to be killed before its end.
SECONDS_PER_BATCH = 0.01


def slowed(draw):
    def draw_slowly(queue):
        time.sleep(SECONDS_PER_BATCH)
        return draw(queue)

    return draw_slowly


if __name__ == '__main__':
    folder, max_global_steps, *framework = sys.argv[1:]
    if framework == ['jax']:
        from tests.workloads_overrides.runner import jax_fakes as workloads
    else:
        workloads = fakes
    workloads.Queue.__next__ = slowed(workloads.Queue.__next__)
    registry.WORKLOADS.update(workloads.ENTRIES)
    run_study(
        workloads.study_config(
            folder,
            max_global_steps=int(max_global_steps),
            resume_last_run=True,
            num_threads=1,
        )
    )
