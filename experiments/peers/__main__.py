r"""Measures this project's K-FAC beside that of other libraries.

Example::

    pip install -c constraints.txt -e '.[peers]'
    python -m experiments.peers --workload=ogbg_chembl --framework=pytorch

Each library's methods take turns with this project's NAdamW and K-FAC, an interval of
ten steps each, on the same model, initial parameters and batches. Columns are the
milliseconds of a step with new statistics and inverses, what it takes more than a
plain step, a plain step, and the mean over the interval; the state beside the
parameters; and the loss on one batch before and after the first 30 steps, which says
whether a method trains. A library that is not installed is left out.

Tables are printed, and all measurements written to
`experiments/results/peers/<workload>_<framework>.json`, library by library: a run that
is killed goes on with what is missing when the same command is given again. `--report`
measures nothing and prints the tables of what there is.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags, logging

from experiments import command, trials
from experiments.peers import ours, session, table
from experiments.peers.failures import Failures
from experiments.peers.task import Task
from experiments.step_time.results import Results
from submission.settings import get_batch_size
from workloads_overrides import registry
from workloads_overrides.runner import frameworks
from workloads_overrides.runner.submission_functions import batch_size_for


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes:
      distribution: Its name on the package index.
      framework: Its framework.
      module: The module here that has its methods.
    """

    distribution: str
    framework: str
    module: str

    def version(self) -> str | None:
        """Returns the version that is installed, None if there is none."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


PEERS = (
    Peer('asdfghjkl', 'pytorch', 'experiments.peers.asdfghjkl_peer'),
    Peer('singd', 'pytorch', 'experiments.peers.singd_peer'),
    Peer('curvlinops-for-pytorch', 'pytorch', 'experiments.peers.curvlinops_peer'),
    Peer('pytorch-optimizer', 'pytorch', 'experiments.peers.pytorch_optimizer_peers'),
    Peer('kfac-jax', 'jax', 'experiments.peers.kfac_jax_peer'),
)


def measure_peer(peer: Peer, task: Task, rounds: int) -> dict[str, Any]:
    """Times a library's methods in turn with those here.

    Args:
      peer: The library.
      task: What is trained.
      rounds: Rounds of an interval of each method.

    Returns:
      What `session.measure` returns, with the library's version.
    """
    failures = Failures()
    with failures.catching(peer.distribution):
        # A library may be too old for its framework to be imported at all.
        module: Any = importlib.import_module(peer.module)
        makers = ours.methods(module.fisher_type(task)) | module.methods(task)
        found = session.measure(task, makers, rounds)
    if failures:
        reason = {'failure': failures[peer.distribution]}
        found = {'methods': {peer.distribution: reason}}
    return {'version': peer.version(), **found}


def describe(distribution: str, found: Mapping[str, Any]) -> str:
    """Returns the table of a library, from what `measure_peer` returned."""
    return f'{distribution} {found["version"]}\n\n{table.of_peer(found["methods"])}'


def measure_all(task: Task, rounds: int, results: Results) -> list[str]:
    """Measures what the results lack, and returns a text for each library.

    Args:
      task: What is trained.
      rounds: Rounds of an interval of each method.
      results: Where the results are and go.
    """
    texts = []
    for peer in PEERS:
        if peer.framework != task.framework_name:
            continue
        version = peer.version()
        if version is None:
            texts.append(
                f"{peer.distribution}: not installed: pip install -e '.[peers]'"
            )
            print(texts[-1], flush=True)
            continue
        found = results.ensure(
            peer.distribution, functools.partial(measure_peer, peer, task, rounds)
        )
        texts.append(describe(peer.distribution, found))
        print(f'\n{texts[-1]}\n', flush=True)
    return texts


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_enum(
        'framework', 'pytorch', trials.FRAMEWORKS, 'Framework to train in.'
    )
    flags.DEFINE_integer('rounds', 12, 'Rounds of ten steps of each method.')
    flags.DEFINE_integer(
        'batch_size', None, "Examples in a batch; the submission's if not given."
    )
    flags.DEFINE_integer(
        'num_threads', None, "Threads; the framework's choice if not given."
    )
    flags.DEFINE_string('output_dir', 'experiments/results/peers', 'Where results go.')
    flags.DEFINE_bool('report', False, 'Print the tables of what has been measured.')


def main() -> None:
    """Measures, and prints and writes the tables."""
    # The submission says for each run who trains which parameter.
    logging.set_verbosity(logging.WARNING)
    values: Any = flags.FLAGS
    path = (
        pathlib.Path(values.output_dir) / f'{values.workload}_{values.framework}.json'
    )
    if values.report:
        for name, found in Results.load(path).parts.items():
            print(f'\n{describe(name, found)}\n')
        return
    if values.num_threads is not None:
        frameworks.load(values.framework).set_num_threads(values.num_threads)
    task = Task(
        registry.load_workload(values.workload, values.framework),
        values.framework,
        values.batch_size or batch_size_for(get_batch_size, values.workload),
    )
    conditions = {
        'machine': trials.machine(values.framework),
        'batch_size': task.batch_size,
        'rounds': values.rounds,
    }
    measure_all(task, values.rounds, Results.open(path, conditions))
    print(f'Written to {path}')


if __name__ == '__main__':
    define_flags()
    command.run(main)
