"""Trains on all devices of a process, this one or one of its own.

Called as `python -m tests.submission.jax.devices_run FILE
WORKLOAD,APPROXIMATION,FIRST_ORDER_RULE...`.
How many devices the host shows is for the caller to set before JAX starts.
"""

import sys

import jax
import numpy as np

from submission.jax import sharding
from submission.jax.naming import flatten

from .tiny_workload import TinyGraphWorkload, TinyWorkload
from .training import hyperparameters, init, train

STEPS = 5
WORKLOADS = {'tokens': TinyWorkload, 'graphs': TinyGraphWorkload}


def _point(approximation, first_order_rule):
    return hyperparameters(
        approximation=approximation,
        first_order_rule=first_order_rule,
        statistics_interval=2,
        inverse_interval=2,
        averaging_power=4.0,
    )


def _check_shares():
    """Each device gets an equal share, also of a number it does not divide."""
    lengths = []

    def doubled(stack):
        lengths.append(len(stack))
        return 2 * stack

    stack = np.arange(12.0).reshape(6, 2)
    shared = jax.jit(lambda stack: sharding.in_shares(doubled, stack))
    np.testing.assert_array_equal(shared(sharding.replicate(stack)), 2 * stack)
    assert set(lengths) == {-(-6 // jax.device_count())}


def results_of(cases):
    """Returns the number of devices, and both kinds of parameters after training."""
    _check_shares()
    results = {'devices': np.asarray(jax.device_count())}
    for case in cases:
        name, *hyperparameters_of_case = case.split(',')
        workload, point = WORKLOADS[name](), _point(*hyperparameters_of_case)
        batches = [workload.batch(step, n=16, weighted=True) for step in range(STEPS)]
        (state, steps), params, _ = train(
            workload, point, *init(workload, point), range(STEPS), batches
        )
        parts = (steps.plain, steps.statistics, steps.inverses, steps.apply)
        assert [part._cache_size() for part in parts] == [1, 1, 1, 1]
        assert int(state.kfac.counters['factor_updates']) == 4
        both = {'trained': params, 'averaged': state.average.average.params}
        for parameter, value in flatten(both).items():
            assert len(value.sharding.device_set) == jax.device_count()
            assert value.sharding.is_fully_replicated
            results[f'{case}, {parameter}'] = np.asarray(value)
    return results


if __name__ == '__main__':
    np.savez(sys.argv[1], **results_of(sys.argv[2:]))
