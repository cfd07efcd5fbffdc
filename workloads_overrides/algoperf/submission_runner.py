"""AlgoPerf's own runner, with this project's workloads besides its own.

`python -m workloads_overrides.submission_runner --harness=algoperf ...` starts it;
all other flags are AlgoPerf's.
"""

import argparse
import sys

from absl import app, flags

from workloads_overrides import registry
from workloads_overrides.runner.errors import RunnerError


def main(arguments: list[str]) -> None:
    """Runs AlgoPerf's runner.

    Args:
        arguments: The program's name and the flags of AlgoPerf's runner.
    """
    try:
        import submission_runner
    except ModuleNotFoundError as error:
        sys.exit(
            f"Error: AlgoPerf's runner cannot be imported ({error}). Install AlgoPerf "
            'by its own documentation, or use --harness=builtin.'
        )
    import flax

    from workloads_overrides.algoperf import registration

    # AlgoPerf asks for a checkpoint with no evaluations as the pattern, and Orbax
    # returns none for it, on which AlgoPerf fails. Flax's own format restores all.
    flax.config.update('flax_use_orbax_checkpointing', False)
    # The workload has to be known before the runner reads its flags.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--workload')
    parser.add_argument('--framework')
    known, _ = parser.parse_known_args(arguments[1:])
    if known.workload and known.framework:
        try:
            registration.register(known.workload, known.framework)
        except RunnerError as error:
            sys.exit(f'Error: {error}')
    if known.workload in registry.WORKLOADS:
        # AlgoPerf's default is a folder that need not exist; here the default is the
        # committed data.
        flags.FLAGS.set_default('data_dir', '')
    for name in (
        'workload',
        'framework',
        'submission_path',
        'experiment_dir',
        'experiment_name',
    ):
        flags.mark_flag_as_required(name)
    app.run(submission_runner.main, argv=arguments)


if __name__ == '__main__':
    main(sys.argv)
