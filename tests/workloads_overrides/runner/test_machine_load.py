import math
import types

import psutil
import pytest

from workloads_overrides.runner.machine_load import machine_load
from workloads_overrides.runner.nvidia_gpus import Gpu

GPUS = [
    Gpu(0, 'A', '1.2', 0.5, 1000.0, 250.0, 750.0, 40.0),
    Gpu(2, 'A', '1.2', 0.25, 2000.0, 1500.0, 500.0, 60.0),
]
# Total memory and counters are whole numbers, shares and frequencies are not.
TYPES = {
    'cpu.util.avg_percent_since_last': float,
    'cpu.freq.current': float,
    'mem.total': int,
    'mem.available': int,
    'mem.used': int,
    'mem.percent_used': float,
    'mem.read_bytes_since_boot': int,
    'mem.write_bytes_since_boot': int,
    'net.bytes_sent_since_boot': int,
    'net.bytes_recv_since_boot': int,
}


@pytest.fixture
def complete(monkeypatch):
    """A machine that tells everything, which not every container does."""
    frequency = types.SimpleNamespace(current=2445.5)
    disks = types.SimpleNamespace(read_bytes=3, write_bytes=4)
    network = types.SimpleNamespace(bytes_sent=5, bytes_recv=6)
    monkeypatch.setattr(psutil, 'cpu_freq', lambda: frequency)
    monkeypatch.setattr(psutil, 'disk_io_counters', lambda: disks)
    monkeypatch.setattr(psutil, 'net_io_counters', lambda: network)


@pytest.mark.usefixtures('complete')
def test_names_and_types_are_those_of_algoperf():
    load = machine_load([])
    assert {name: type(value) for name, value in load.items()} == TYPES
    assert load['cpu.freq.current'] == 2445.5
    assert load['mem.read_bytes_since_boot'] == 3
    assert load['mem.write_bytes_since_boot'] == 4
    assert load['net.bytes_sent_since_boot'] == 5
    assert load['net.bytes_recv_since_boot'] == 6


def test_values_are_of_this_machine():
    load = machine_load([])
    assert load['mem.total'] == psutil.virtual_memory().total
    assert 0 < load['mem.available'] <= load['mem.total']
    assert 0 < load['mem.percent_used'] < 100
    assert 0 <= load['cpu.util.avg_percent_since_last'] <= 100


@pytest.mark.usefixtures('complete')
@pytest.mark.parametrize(
    ('function', 'lost'),
    [
        ('cpu_freq', {'cpu.freq.current'}),
        (
            'disk_io_counters',
            {'mem.read_bytes_since_boot', 'mem.write_bytes_since_boot'},
        ),
        (
            'net_io_counters',
            {'net.bytes_sent_since_boot', 'net.bytes_recv_since_boot'},
        ),
    ],
)
@pytest.mark.parametrize(
    'answer',
    [None, NotImplementedError('no /proc/diskstats'), FileNotFoundError('/proc')],
)
def test_what_a_machine_does_not_tell_is_left_out(monkeypatch, function, lost, answer):
    def stand_in():
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(psutil, function, stand_in)
    assert set(machine_load([])) == set(TYPES) - lost


def test_a_function_that_psutil_lacks_is_left_out(monkeypatch):
    monkeypatch.delattr(psutil, 'cpu_freq')
    assert 'cpu.freq.current' not in machine_load([])


def test_gpus_one_by_one_and_on_average():
    load = machine_load(GPUS)
    assert {name: load[name] for name in load if name.startswith('gpu.')} == {
        'gpu.count': 2,
        'gpu.0.compute.util': 0.5,
        'gpu.0.mem.util': 0.25,
        'gpu.0.mem.total': 1000.0,
        'gpu.0.mem.used': 250.0,
        'gpu.0.mem.free': 750.0,
        'gpu.0.temp.current': 40.0,
        'gpu.2.compute.util': 0.25,
        'gpu.2.mem.util': 0.75,
        'gpu.2.mem.total': 2000.0,
        'gpu.2.mem.used': 1500.0,
        'gpu.2.mem.free': 500.0,
        'gpu.2.temp.current': 60.0,
        'gpu.avg.compute.util': 0.375,
        'gpu.avg.mem.util': 0.5,
        'gpu.avg.mem.total': 1500.0,
        'gpu.avg.mem.used': 875.0,
        'gpu.avg.mem.free': 625.0,
        'gpu.avg.temp.current': 50.0,
    }


def test_a_load_that_the_driver_does_not_tell_stays_unknown_on_average():
    gpus = [GPUS[0], Gpu(1, 'A', '1.2', math.nan, 1000.0, 250.0, 750.0, 40.0)]
    load = machine_load(gpus)
    assert math.isnan(load['gpu.1.compute.util'])
    assert math.isnan(load['gpu.avg.compute.util'])
    assert load['gpu.avg.mem.util'] == 0.25
