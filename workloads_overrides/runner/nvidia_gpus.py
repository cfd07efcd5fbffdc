"""The GPUs of the machine and how busy they are, as their driver reports them."""

import csv
import dataclasses
import subprocess

from absl import logging

_FIELDS = (
    'index',
    'name',
    'driver_version',
    'utilization.gpu',
    'memory.total',
    'memory.used',
    'memory.free',
    'temperature.gpu',
)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU at one moment; what the driver does not tell is NaN.

    Attributes:
        index: Number of the GPU on the machine, from 0.
        name: Name of the model.
        driver: Version of the driver.
        load: Share of the time in which the GPU was busy, from 0 to 1.
        memory_total: Memory in MiB.
        memory_used: Memory in use in MiB.
        memory_free: Free memory in MiB.
        temperature: Temperature in degrees Celsius.
    """

    index: int
    name: str
    driver: str
    load: float
    memory_total: float
    memory_used: float
    memory_free: float
    temperature: float


def nvidia_gpus() -> list[Gpu]:
    """Returns every GPU of the machine, also those hidden from this process.

    Without a driver that answers there are none.
    """
    command = [
        'nvidia-smi',
        f'--query-gpu={",".join(_FIELDS)}',
        '--format=csv,noheader,nounits',
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, check=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError) as error:
        logging.info('GPUs are not recorded: %s', error)
        return []
    lines = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [_gpu(line) for line in lines]


def _gpu(values: list[str]) -> Gpu:
    index, name, driver, load_percent, *others = values
    total, used, free, temperature = map(_number, others)
    return Gpu(
        index=int(index),
        name=name,
        driver=driver,
        load=_number(load_percent) / 100,
        memory_total=total,
        memory_used=used,
        memory_free=free,
        temperature=temperature,
    )


def _number(text: str) -> float:
    """Returns a number, or NaN for the driver's words that it has none."""
    # "[N/A]", "[Not Supported]", "[Unknown Error]" and the like.
    return float('nan') if text.startswith('[') else float(text)
