"""The optimiser of kfac-jax, called as its documentation does."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import kfac_jax

from experiments.peers.kfac_jax_adapter import (
    adapt_to_jax,
    block_constructors,
    registered_loss,
)
from experiments.peers.method import INTERVAL, Method
from experiments.peers.task import Task

_DAMPING = 1e-2
_LEARNING_RATE = 1e-3
_MOMENTUM = 0.9
# Its quick start's.
_INITIAL_DAMPING = 1.0
# A head that starts at zero lets no gradient pass, by whose rows kfac-jax divides.
_FIRST_LEARNING_RATE = 0.1


class KFACJax(Method):
    """Its `Optimizer`, with a fixed or, as in its quick start, an adaptive rate."""

    def __init__(self, task: Task, is_adaptive: bool) -> None:
        super().__init__(task)
        adapt_to_jax()
        self.note = 'adapted to this JAX and these layers, a gradient step ahead'
        self._is_adaptive = is_adaptive
        self._gradient = jax.value_and_grad(registered_loss(task))
        self._optimizer: Any = kfac_jax.Optimizer(
            value_and_grad_func=self._gradient,
            l2_reg=0.0,
            use_adaptive_learning_rate=is_adaptive,
            use_adaptive_momentum=is_adaptive,
            use_adaptive_damping=is_adaptive,
            initial_damping=_INITIAL_DAMPING if is_adaptive else None,
            layer_tag_to_block_ctor=block_constructors(task.batch_size),
            curvature_update_period=INTERVAL,
            inverse_update_period=INTERVAL,
            batch_size_extractor=lambda batch: len(batch['targets']),
            num_burnin_steps=0,
            multi_device=False,
        )
        self._params = self._moved(task.params())
        self._state = self._optimizer.init(self._params, task.key, task.probe)

    def _moved(self, params: Any) -> Any:
        """Takes a step of gradient descent."""
        gradients = jax.jit(jax.grad(self.task.mean_loss))(params, self.task.probe)
        return jax.tree.map(
            lambda p, g: p - _FIRST_LEARNING_RATE * g, params, gradients
        )

    @property
    def params(self) -> Any:
        """The parameters."""
        return self._params

    def step(self, batch: Any) -> None:
        """Takes a step of the optimiser."""
        fixed = {
            'learning_rate': _LEARNING_RATE,
            'momentum': _MOMENTUM,
            'damping': _DAMPING,
        }
        self._params, self._state, _ = self._optimizer.step(
            self._params,
            self._state,
            jax.random.fold_in(self.task.key, self.steps),
            batch=batch,
            global_step_int=self.steps,
            **({} if self._is_adaptive else fixed),
        )

    def state_bytes(self) -> int:
        """Returns the size of the optimiser's state."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._state))


def fisher_type(task: Task) -> str:
    """Returns the Fisher type of our K-FAC that does the same."""
    del task
    return 'monte_carlo'


def methods(task: Task) -> dict[str, Callable[[Task], Method]]:
    """Returns what starts each method, by name."""
    del task
    return {
        'kfac-jax, expand, monte_carlo': functools.partial(KFACJax, is_adaptive=False),
        'kfac-jax, the same, adaptive': functools.partial(KFACJax, is_adaptive=True),
    }
