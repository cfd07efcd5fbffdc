"""What the runner asks of a framework, so that all else is the same for both."""

import abc
import importlib
from typing import IO, Any

from workloads_overrides.runner.state import TrainingState


class Framework(abc.ABC):
    """Keys, generators, devices and checkpoint files of one framework."""

    @abc.abstractmethod
    def prng_key(self, seed: int) -> Any:
        """Returns the first key of a run, the one that AlgoPerf starts with."""

    @abc.abstractmethod
    def split(self, key: Any, num: int) -> Any:
        """Returns `num` new keys."""

    @abc.abstractmethod
    def fold_in(self, key: Any, data: int) -> Any:
        """Returns the key of step `data` under `key`."""

    @abc.abstractmethod
    def seed(self, value: int) -> None:
        """Seeds the framework's own global generators, if it has any."""

    @abc.abstractmethod
    def generator_states(self) -> dict[str, Any]:
        """Returns the states of those generators, as checkpoints can hold them."""

    @abc.abstractmethod
    def set_generator_states(self, states: dict[str, Any]) -> None:
        """Sets the generators to states that `generator_states` returned."""

    @abc.abstractmethod
    def set_num_threads(self, num_threads: int) -> None:
        """Sets the number of threads within an operation on the CPU."""

    @abc.abstractmethod
    def wait_for(self, *values: Any) -> None:
        """Returns once all device work that makes the values has ended."""

    @abc.abstractmethod
    def compilation_seconds(self) -> float:
        """Returns the time that this process has spent on compiling steps so far."""

    @abc.abstractmethod
    def versions(self) -> dict[str, str]:
        """Returns package name to version of what training runs on."""

    @abc.abstractmethod
    def device_facts(self) -> dict[str, Any]:
        """Returns `num_threads`, `device` and `device_count`."""

    @abc.abstractmethod
    def check_optimizer_state(self, optimizer_state: Any) -> None:
        """Warns of, or refuses, a state that a checkpoint cannot hold.

        Raises:
            RunnerError: If the state does not have the form that AlgoPerf asks for.
        """

    @abc.abstractmethod
    def contents(self, state: TrainingState) -> dict[str, Any]:
        """Returns `model_params`, `optimizer_state` and `model_state` to be saved."""

    @abc.abstractmethod
    def write(self, content: dict[str, Any], file: IO[bytes]) -> None:
        """Writes a checkpoint as a zip archive, which has checksums."""

    @abc.abstractmethod
    def read(self, file: IO[bytes]) -> dict[str, Any]:
        """Returns what `write` wrote; tuples may have become lists."""

    @abc.abstractmethod
    def put_back(self, content: dict[str, Any], state: TrainingState) -> None:
        """Puts what `contents` returned into a freshly made state.

        Raises:
            RunnerError: If the state has other parts than the saved one.
        """


def load(name: str) -> Framework:
    """Imports what one framework needs, and nothing of the other.

    Args:
        name: `'pytorch'` or `'jax'`.
    """
    module = importlib.import_module(f'workloads_overrides.runner.{name}_framework')
    framework: Framework = module.make()
    return framework
