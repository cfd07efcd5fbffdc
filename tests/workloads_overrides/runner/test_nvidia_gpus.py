import math

import pytest

from workloads_overrides.runner.nvidia_gpus import Gpu, nvidia_gpus

# A driver that answers field by field, whatever the order in which it is asked.
DRIVER = """\
#!/bin/sh
[ "$2" = --format=csv,noheader,nounits ] || exit 2
answer() {{
    separator=
    for field in $(echo "${{1#--query-gpu=}}" | tr , ' '); do
        case $field in
            index) value=$2 ;;
            name) value='NVIDIA H100 80GB HBM3' ;;
            driver_version) value=550.54.15 ;;
            utilization.gpu) value='{load}' ;;
            memory.total) value=81559 ;;
            memory.used) value=559 ;;
            memory.free) value=81000 ;;
            temperature.gpu) value=3$2 ;;
            *) exit 2 ;;
        esac
        printf '%s%s' "$separator" "$value"
        separator=', '
    done
    echo
}}
answer "$1" 0
answer "$1" 1
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Writes a program named `nvidia-smi` that is found before any other."""
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')

    def write(text):
        program = tmp_path / 'nvidia-smi'
        program.write_text(text)
        program.chmod(0o755)

    return write


def test_every_gpu_with_its_load(driver):
    driver(DRIVER.format(load=75))
    name, version = 'NVIDIA H100 80GB HBM3', '550.54.15'
    assert nvidia_gpus() == [
        Gpu(0, name, version, 0.75, 81559.0, 559.0, 81000.0, 30.0),
        Gpu(1, name, version, 0.75, 81559.0, 559.0, 81000.0, 31.0),
    ]


@pytest.mark.parametrize('words', ['[N/A]', '[Not Supported]', '[Unknown Error]'])
def test_a_load_that_the_driver_does_not_tell_is_unknown(driver, words):
    driver(DRIVER.format(load=words))
    gpus = nvidia_gpus()
    assert [gpu.index for gpu in gpus] == [0, 1]
    assert all(math.isnan(gpu.load) for gpu in gpus)
    assert gpus[0].memory_used == 559.0


def test_no_gpus_where_the_driver_fails(driver):
    driver('#!/bin/sh\necho "couldn\'t communicate with the driver"\nexit 9\n')
    assert nvidia_gpus() == []


def test_no_gpus_without_a_driver(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert nvidia_gpus() == []
