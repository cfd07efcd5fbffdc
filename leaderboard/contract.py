"""Does the entry, imported from where it lies, define what AlgoPerf calls?"""

import json
import os
import pathlib
import subprocess
import sys

from leaderboard.layout import BASE_WORKLOADS, FOREIGN_PACKAGES, SUBMISSION_FILE
from leaderboard.violation import Violation

_STATE = ('current_param_container', 'current_params_types', 'model_state')

# Parameters by function, as AlgoPerf's spec.py declares them and its runner passes
# them, by name.
SIGNATURES: dict[str, tuple[str, ...]] = {
    'get_batch_size': ('workload_name',),
    'init_optimizer_state': (
        'workload',
        'model_params',
        'model_state',
        'hyperparameters',
        'rng',
    ),
    'update_params': (
        'workload',
        *_STATE,
        'hyperparameters',
        'batch',
        'loss_type',
        'optimizer_state',
        'eval_results',
        'global_step',
        'rng',
        'train_state',
    ),
    'prepare_for_eval': (
        'workload',
        *_STATE,
        'hyperparameters',
        'loss_type',
        'optimizer_state',
        'eval_results',
        'global_step',
        'rng',
    ),
    'data_selection': (
        'workload',
        'input_queue',
        'optimizer_state',
        'current_param_container',
        'model_state',
        'hyperparameters',
        'global_step',
        'rng',
    ),
}

_PROBE = pathlib.Path(__file__).with_name('probe.py')
_TIMEOUT_SECONDS = 300


def check_contract(entry: pathlib.Path) -> list[Violation]:
    """Imports the entry in a fresh process and checks its functions.

    Args:
      entry: Folder of the entry.

    Returns:
      A violation if it cannot be imported, otherwise one for each function that is
      missing or has another signature, and for each base workload without a batch
      size.
    """
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    run = subprocess.run(
        [
            sys.executable,
            '-s',
            '-P',
            str(_PROBE),
            str(entry.parent.resolve()),
            entry.name,
            ','.join(BASE_WORKLOADS),
            ','.join(sorted(FOREIGN_PACKAGES - {entry.name})),
        ],
        cwd=entry.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    if run.returncode != 0:
        reason = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else ''
        return [_violation(f'It cannot be imported from {entry.parent}: {reason}')]
    report = json.loads(run.stdout.splitlines()[-1])
    violations = []
    for name, expected in SIGNATURES.items():
        found = report['functions'].get(name)
        if found is None:
            violations.append(_violation(f'Function {name} is missing.'))
        elif tuple(found) != expected:
            violations.append(
                _violation(
                    f'Function {name} takes ({", ".join(found)}); AlgoPerf passes '
                    f'({", ".join(expected)}).'
                )
            )
    violations += [
        _violation(f'get_batch_size({workload!r}) {size}.')
        for workload, size in report['batch_sizes'].items()
        if isinstance(size, str)
    ]
    return violations


def _violation(message: str) -> Violation:
    return Violation(SUBMISSION_FILE, 1, 'contract', message)
