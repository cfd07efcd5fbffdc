"""What a trial records of its workload, software and machine."""

import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from workloads_overrides.runner.frameworks import Framework
from workloads_overrides.runner.machine_load import machine_load
from workloads_overrides.runner.nvidia_gpus import Gpu, nvidia_gpus

# Mappings over all parameters, and not yet known before the model exists.
_NOT_RECORDED = ('param_shapes', 'model_params_types')


def meta_data(workload: Any, framework: Framework, rng_seed: int) -> dict[str, Any]:
    """Returns the content of a trial's `meta_data_<preemption>.json`."""
    gpus = nvidia_gpus()
    return {
        **_workload_facts(workload),
        **machine_load(gpus),
        **_software_facts(framework),
        **_hardware_facts(framework, gpus),
        'rng_seed': rng_seed,
    }


def _workload_facts(workload: Any) -> dict[str, Any]:
    facts = {}
    for name in dir(workload):
        if name.startswith('_') or name in _NOT_RECORDED:
            continue
        try:
            value = getattr(workload, name)
        except Exception as error:
            # A property may need what this workload does not have; a record of
            # facts is no reason to end a run.
            logging.info('workload.%s is not recorded: %s', name, error)
            continue
        if isinstance(value, bool | int | float | str):
            facts[f'workload.{name}'] = value
    return facts


def _software_facts(framework: Framework) -> dict[str, Any]:
    return {
        'os_platform': platform.platform(),
        'python_version': platform.python_version(),
        'python_compiler': platform.python_compiler(),
        **{f'{name}_version': v for name, v in framework.versions().items()},
        'numpy_version': np.__version__,
        'git_commit_hash': _git('rev-parse', 'HEAD'),
        'git_branch': _git('rev-parse', '--abbrev-ref', 'HEAD'),
        'git_changed_files': _git('status', '--porcelain', '--untracked-files=no'),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ['git', *arguments], capture_output=True, check=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError) as error:
        logging.info('git %s is not recorded: %s', arguments[0], error)
        return None
    return done.stdout.strip()


def _hardware_facts(framework: Framework, gpus: Sequence[Gpu]) -> dict[str, Any]:
    facts = {
        'cpu_model_name': _cpu_model_name(),
        'cpu_count': os.cpu_count(),
        **framework.device_facts(),
    }
    if gpus:
        facts['gpu_model_name'] = gpus[0].name
        facts['gpu_count'] = len(gpus)
        facts['gpu_driver'] = gpus[0].driver
    return facts


def _cpu_model_name() -> str:
    cpu_info = pathlib.Path('/proc/cpuinfo')
    if cpu_info.exists():
        for line in cpu_info.read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor()
