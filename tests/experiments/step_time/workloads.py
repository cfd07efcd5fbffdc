"""Workloads whose steps take no time to compile or to run."""

import importlib

_MODULES = {
    'pytorch': 'tests.submission.tiny_workload',
    'jax': 'tests.submission.jax.tiny_workload',
}


def tiny_workload(framework):
    workload = importlib.import_module(_MODULES[framework]).TinyWorkload()
    # Passed on to the submission, which does not read it.
    workload._param_types = {}
    return workload
