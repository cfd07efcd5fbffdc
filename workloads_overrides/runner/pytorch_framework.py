"""What the runner asks of PyTorch."""

from typing import IO, Any

import torch
from absl import logging

from workloads_overrides import random_utils
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.frameworks import Framework
from workloads_overrides.runner.state import TrainingState


def make() -> Framework:
    """Returns the framework."""
    return PyTorchFramework()


class PyTorchFramework(Framework):
    """PyTorch: state lives in objects with `state_dict`, keys come from numpy."""

    def prng_key(self, seed: int) -> Any:
        """Returns the first key of a run, the one that AlgoPerf starts with."""
        return random_utils.prng_key(seed)

    def split(self, key: Any, num: int) -> Any:
        """Returns `num` new keys."""
        return random_utils.split(key, num)

    def fold_in(self, key: Any, data: int) -> Any:
        """Returns the key of step `data` under `key`."""
        return random_utils.fold_in(key, data)

    def seed(self, value: int) -> None:
        """Seeds PyTorch's generators, on GPUs as well."""
        torch.manual_seed(value)

    def generator_states(self) -> dict[str, Any]:
        """Returns the states of PyTorch's generators."""
        return {
            'torch': torch.get_rng_state(),
            'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def set_generator_states(self, states: dict[str, Any]) -> None:
        """Sets the generators to states that `generator_states` returned."""
        torch.set_rng_state(states['torch'])
        if torch.cuda.is_available() and states['cuda']:
            torch.cuda.set_rng_state_all(states['cuda'])

    def set_num_threads(self, num_threads: int) -> None:
        """Sets the number of threads within an operation on the CPU."""
        torch.set_num_threads(num_threads)

    def wait_for(self, *values: Any) -> None:
        """Returns once all work on the GPU has ended, whatever it makes."""
        del values
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def compilation_seconds(self) -> float:
        """Returns 0: a model is compiled only where asked for, as a part of steps."""
        return 0.0

    def versions(self) -> dict[str, str]:
        """Returns the version of PyTorch."""
        return {'torch': torch.__version__}

    def device_facts(self) -> dict[str, Any]:
        """Returns `num_threads`, `device` and `device_count`."""
        has_gpu = torch.cuda.is_available()
        return {
            'num_threads': torch.get_num_threads(),
            'device': torch.cuda.get_device_name() if has_gpu else 'cpu',
            'device_count': torch.cuda.device_count() if has_gpu else 1,
        }

    def check_optimizer_state(self, optimizer_state: Any) -> None:
        """Warns of parts of an optimiser state that a checkpoint cannot hold.

        Raises:
            RunnerError: If it is not a dictionary.
        """
        if not isinstance(optimizer_state, dict):
            raise RunnerError(
                'init_optimizer_state must return a dictionary in PyTorch, got '
                f'{type(optimizer_state).__name__}.'
            )
        for key, value in optimizer_state.items():
            if not hasattr(value, 'state_dict'):
                logging.warning(
                    'optimizer_state[%r] (%s) has no state_dict() and is not saved, '
                    'so this run cannot be resumed.',
                    key,
                    type(value).__name__,
                )

    def contents(self, state: TrainingState) -> dict[str, Any]:
        """Returns the state dictionaries of the model and of the optimiser state."""
        return {
            'model_params': _unwrapped(state.model_params).state_dict(),
            'optimizer_state': {
                key: value.state_dict()
                for key, value in state.optimizer_state.items()
                if hasattr(value, 'state_dict')
            },
            'model_state': state.model_state,
        }

    def write(self, content: dict[str, Any], file: IO[bytes]) -> None:
        """Writes a checkpoint; PyTorch's format is a zip archive."""
        torch.save(content, file)

    def read(self, file: IO[bytes]) -> dict[str, Any]:
        """Returns what `write` wrote."""
        content: dict[str, Any] = torch.load(
            file,
            weights_only=True,
            # Without a GPU nothing can be put back on one; else all stays put.
            map_location=None if torch.cuda.is_available() else 'cpu',
        )
        return content

    def put_back(self, content: dict[str, Any], state: TrainingState) -> None:
        """Loads the state dictionaries into the objects of a freshly made state."""
        saved, present = content['optimizer_state'], state.optimizer_state
        if saved.keys() != present.keys():
            raise RunnerError(
                f'The checkpoint holds the optimiser state {sorted(saved)}, but the '
                f'submission now has {sorted(present)}.'
            )
        _unwrapped(state.model_params).load_state_dict(content['model_params'])
        for key, value in saved.items():
            present[key].load_state_dict(value)
        state.model_state = content['model_state']


def _unwrapped(model: Any) -> Any:
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model
