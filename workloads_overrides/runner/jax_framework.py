"""What the runner asks of JAX."""

import os
import zipfile
from typing import IO, Any

import flax
import jax
import jaxlib
import optax
from flax import serialization

from workloads_overrides.jax_sharding import replicated_sharding
from workloads_overrides.runner.compilation_time import CompilationTime
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.frameworks import Framework
from workloads_overrides.runner.state import TrainingState

# Read by XLA when it makes its thread pools, at the first use of a device.
_NUM_THREADS_VARIABLE = 'NPROC'
_ARCHIVE_MEMBER = 'checkpoint.msgpack'


def make() -> Framework:
    """Returns the framework."""
    return JaxFramework()


class JaxFramework(Framework):
    """JAX: state is trees of arrays, and there are no global generators."""

    def __init__(self) -> None:
        self._compilation_time = CompilationTime.of_this_process()

    def prng_key(self, seed: int) -> jax.Array:
        """Returns the first key of a run, the one that AlgoPerf starts with."""
        return jax.random.PRNGKey(seed)

    def split(self, key: jax.Array, num: int) -> jax.Array:
        """Returns `num` new keys."""
        return jax.random.split(key, num)

    def fold_in(self, key: jax.Array, data: int) -> jax.Array:
        """Returns the key of step `data` under `key`."""
        return jax.random.fold_in(key, data)

    def seed(self, value: int) -> None:
        """Does nothing: all that is random in JAX follows from keys."""

    def generator_states(self) -> dict[str, Any]:
        """Returns no states."""
        return {}

    def set_generator_states(self, states: dict[str, Any]) -> None:
        """Has nothing to set."""

    def set_num_threads(self, num_threads: int) -> None:
        """Sets the size of XLA's thread pools.

        It has an effect before the process first uses a device, which is why the
        runner calls it before it makes a workload.
        """
        os.environ[_NUM_THREADS_VARIABLE] = str(num_threads)

    def wait_for(self, *values: Any) -> None:
        """Returns once the arrays among the values have been computed."""
        jax.block_until_ready(
            [leaf for leaf in jax.tree.leaves(values) if isinstance(leaf, jax.Array)]
        )

    def compilation_seconds(self) -> float:
        """Returns the time spent on tracing, lowering and compiling so far."""
        return self._compilation_time.seconds

    def versions(self) -> dict[str, str]:
        """Returns the versions of JAX and of what is built on it."""
        return {
            'jax': jax.__version__,
            'jaxlib': jaxlib.__version__,
            'flax': flax.__version__,
            'optax': optax.__version__,
        }

    def device_facts(self) -> dict[str, Any]:
        """Returns `num_threads`, `device` and `device_count`."""
        threads = os.environ.get(_NUM_THREADS_VARIABLE)
        return {
            'num_threads': os.cpu_count() if threads is None else int(threads),
            'device': jax.devices()[0].device_kind,
            'device_count': jax.device_count(),
        }

    def check_optimizer_state(self, optimizer_state: Any) -> None:
        """Refuses a state that a checkpoint cannot hold.

        Raises:
            RunnerError: If it is not a pair of a tree of arrays and a function, or
                if Flax cannot serialise the tree, which then fails under AlgoPerf
                as well.
        """
        if not (isinstance(optimizer_state, tuple) and len(optimizer_state) == 2):
            raise RunnerError(
                'init_optimizer_state must return a pair (tree of arrays, update '
                f'function) in JAX, got {type(optimizer_state).__name__}.'
            )
        saved = serialization.to_state_dict(optimizer_state[0])
        for path, leaf in jax.tree_util.tree_leaves_with_path(saved):
            if not _is_serialisable(leaf):
                raise RunnerError(
                    f'optimizer_state[0]{jax.tree_util.keystr(path)} is of type '
                    f'{type(leaf).__name__}, which Flax cannot serialise; make it an '
                    'array, a number, or a container that Flax knows.'
                )

    def contents(self, state: TrainingState) -> dict[str, Any]:
        """Returns the state dictionaries that Flax makes of the trees."""
        return {
            'model_params': serialization.to_state_dict(state.model_params),
            'optimizer_state': serialization.to_state_dict(state.optimizer_state[0]),
            'model_state': serialization.to_state_dict(state.model_state),
        }

    def write(self, content: dict[str, Any], file: IO[bytes]) -> None:
        """Writes a checkpoint in Flax's format, within a zip archive."""
        data = serialization.msgpack_serialize(_with_lists(content))
        with zipfile.ZipFile(file, 'w') as archive:
            archive.writestr(_ARCHIVE_MEMBER, data)

    def read(self, file: IO[bytes]) -> dict[str, Any]:
        """Returns what `write` wrote, with lists in the place of tuples."""
        with zipfile.ZipFile(file) as archive:
            content: dict[str, Any] = serialization.msgpack_restore(
                archive.read(_ARCHIVE_MEMBER)
            )
        return content

    def put_back(self, content: dict[str, Any], state: TrainingState) -> None:
        """Puts the arrays where those of the freshly made state are."""
        opt_state, update_fn = state.optimizer_state
        opt_state = _like(opt_state, content['optimizer_state'], 'optimizer_state')
        params = _like(state.model_params, content['model_params'], 'model_params')
        model_state = _like(state.model_state, content['model_state'], 'model_state')
        state.optimizer_state = (opt_state, update_fn)
        state.model_params, state.model_state = params, model_state


def _is_serialisable(leaf: Any) -> bool:
    # Arrays of numpy and JAX, and numpy's scalars, have a shape and a dtype.
    return isinstance(leaf, bool | int | float | str | bytes) or (
        hasattr(leaf, 'shape')
        and hasattr(leaf, 'dtype')
        and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


def _like(fresh: Any, saved: Any, name: str) -> Any:
    """Returns saved values with the structure and the placement of fresh ones."""
    try:
        restored = serialization.from_state_dict(fresh, saved)
    except ValueError as error:
        raise RunnerError(
            f'The checkpoint holds another {name} than this run starts with: {error}'
        ) from error

    def place(path: Any, now: Any, then: Any) -> Any:
        if not isinstance(now, jax.Array):
            return then
        if now.shape != then.shape or now.dtype != then.dtype:
            raise RunnerError(
                f'{name}{jax.tree_util.keystr(path)} is {then.dtype}{list(then.shape)} '
                f'in the checkpoint, but {now.dtype}{list(now.shape)} in this run.'
            )
        # As after a step: laid out over all devices, or it would be compiled anew.
        is_laid_out = isinstance(now.sharding, jax.sharding.NamedSharding)
        return jax.device_put(
            then, now.sharding if is_laid_out else replicated_sharding()
        )

    return jax.tree_util.tree_map_with_path(place, fresh, restored)


def _with_lists(value: Any) -> Any:
    """Returns a value with lists for tuples, which Flax's format does not have."""
    if isinstance(value, dict):
        return {key: _with_lists(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_with_lists(entry) for entry in value]
    return value
