"""How busy the machine is, under the names of AlgoPerf's record of it."""

import statistics
from collections.abc import Sequence
from typing import Any

import psutil
from absl import logging

from workloads_overrides.runner.nvidia_gpus import Gpu

# Name in the record -> function of psutil and, if it returns several, the value's name.
# AlgoPerf counts the traffic of the disks under the memory.
_READINGS = {
    'cpu.util.avg_percent_since_last': ('cpu_percent', None),
    'cpu.freq.current': ('cpu_freq', 'current'),
    'mem.total': ('virtual_memory', 'total'),
    'mem.available': ('virtual_memory', 'available'),
    'mem.used': ('virtual_memory', 'used'),
    'mem.percent_used': ('virtual_memory', 'percent'),
    'mem.read_bytes_since_boot': ('disk_io_counters', 'read_bytes'),
    'mem.write_bytes_since_boot': ('disk_io_counters', 'write_bytes'),
    'net.bytes_sent_since_boot': ('net_io_counters', 'bytes_sent'),
    'net.bytes_recv_since_boot': ('net_io_counters', 'bytes_recv'),
}


def machine_load(gpus: Sequence[Gpu]) -> dict[str, Any]:
    """Returns the load of processors, memory, disks, network and GPUs.

    Args:
        gpus: The GPUs of the machine; without any, no name starts with `gpu.`.

    Returns:
        Name to number: memory in bytes (that of GPUs in MiB), frequencies in MHz,
        temperatures in degrees Celsius, `gpu.*.util` from 0 to 1 and other loads in
        per cent. What the machine does not tell, as some containers do not, is
        left out.
    """
    return {**_host_load(), **_gpu_load(gpus)}


def _host_load() -> dict[str, Any]:
    functions = dict.fromkeys(function for function, _ in _READINGS.values())
    answers = {function: _answer(function) for function in functions}
    return {
        name: answers[function] if part is None else getattr(answers[function], part)
        for name, (function, part) in _READINGS.items()
        if answers[function] is not None
    }


def _answer(function: str) -> Any:
    try:
        answer = getattr(psutil, function)()
    except (
        AttributeError,  # psutil has no such function on this system.
        NotImplementedError,
        OSError,
        RuntimeError,
        psutil.Error,
    ) as error:
        logging.info('%s is not recorded: %s', function, error)
        return None
    if answer is None:
        logging.info('%s is not recorded: this machine has none.', function)
    return answer


def _gpu_load(gpus: Sequence[Gpu]) -> dict[str, Any]:
    if not gpus:
        return {}
    measured = {gpu.index: _measured(gpu) for gpu in gpus}
    load: dict[str, Any] = {'gpu.count': len(gpus)}
    for index, values in measured.items():
        load.update({f'gpu.{index}.{name}': value for name, value in values.items()})
    for name in next(iter(measured.values())):
        load[f'gpu.avg.{name}'] = statistics.fmean(
            values[name] for values in measured.values()
        )
    return load


def _measured(gpu: Gpu) -> dict[str, float]:
    return {
        'compute.util': gpu.load,
        'mem.util': gpu.memory_used / gpu.memory_total,
        'mem.total': gpu.memory_total,
        'mem.used': gpu.memory_used,
        'mem.free': gpu.memory_free,
        'temp.current': gpu.temperature,
    }
