import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads_overrides.runner.compilation_time import CompilationTime
from workloads_overrides.runner.jax_framework import JaxFramework

JAX = JaxFramework()


def test_keys_are_those_of_jax():
    key = JAX.prng_key(3)
    np.testing.assert_array_equal(key, jax.random.PRNGKey(3))
    np.testing.assert_array_equal(JAX.split(key, 4), jax.random.split(key, 4))
    np.testing.assert_array_equal(JAX.fold_in(key, 7), jax.random.fold_in(key, 7))


@pytest.mark.parametrize('seed', [2**31, 2**32 - 1, 2**40])
def test_large_seeds_give_keys(seed):
    assert JAX.prng_key(seed).shape == (2,)


def test_nested_compilation_counts_once():
    ends = iter([10.0, 12.0, 13.0, 20.0])
    counted = CompilationTime(clock=lambda: next(ends))
    counted.add('/jax/core/compile/inner', 1.0)
    counted.add('/jax/core/compile/inner', 1.5)
    # From 8 to 13, around both.
    counted.add('/jax/core/compile/outer', 5.0)
    assert counted.seconds == 5.0
    counted.add('/jax/core/compile/next', 2.0)
    counted.add('/jax/checkpoint/write', 100.0)
    assert counted.seconds == 7.0


def test_compilation_is_noticed_and_execution_is_not():
    @jax.jit
    def function(x):
        return jnp.tanh(x) * 3 + len(x)

    before = JAX.compilation_seconds()
    for _ in range(3):
        function(jnp.ones(11))
    after = JAX.compilation_seconds()
    assert after > before
    function(np.ones(11, np.float32))
    assert JAX.compilation_seconds() == after


def in_new_process(code):
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_pytorch_is_not_loaded():
    assert in_new_process(
        'import sys\n'
        'from workloads_overrides.runner import study, frameworks\n'
        'from workloads_overrides import registry\n'
        'frameworks.load("jax")\n'
        'for name in registry.WORKLOADS: registry.load_workload(name, "jax")\n'
        'print("torch" in sys.modules)'
    ) == ['False']


@pytest.mark.skipif(
    not os.path.exists('/proc/self/task') or len(os.sched_getaffinity(0)) < 2,
    reason='counts threads by Linux means, and a single core leaves no choice',
)
def test_number_of_threads_reaches_xla():
    counts = [
        int(
            in_new_process(
                'import os\n'
                'from workloads_overrides.runner import frameworks\n'
                f'frameworks.load("jax").set_num_threads({num_threads})\n'
                'import jax.numpy as jnp\n'
                'jnp.ones(3).block_until_ready()\n'
                'print(len(os.listdir("/proc/self/task")))'
            )[0]
        )
        for num_threads in (1, 4)
    ]
    assert counts[1] >= counts[0] + 3
