r"""Tries more points of each method than the five that a study has.

Example::

    python -m experiments.time_to_target.wider_search --workload=ogbg_chembl

The five points of every method come from searches on the offline workloads. Here all
have as many again and more to show whether a method's five do it justice: the points of
each in `experiments/time_to_target/search_spaces/wider/`, around what was best of the
five. A trial ends once the method has been faster at another point with that seed, so
the five have to be trained first, by `python -m experiments.time_to_target`.

Records go to the `records.jsonl` of the five, as they come, and a run that is stopped
goes on where it was; which points are the five says their search space alone.
`--report` trains nothing. Both write the table `wider_search.md`.
"""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command, text_tables, trials
from experiments.seeds import parse_seeds
from experiments.time_to_target import scores, study
from experiments.time_to_target.methods import METHODS, RESULTS, TRIALS, WIDER
from experiments.trials import Record
from workloads_overrides import registry

_COLUMNS = (
    'Method',
    'Seed',
    'Points',
    'Steps, best of five',
    'Steps, best of all',
    'Best of the others',
)


def chosen_methods(names: Sequence[str]) -> list[str]:
    """Returns the methods to search, all that have more points if none is named.

    Raises:
      ValueError: For a method that has no more points.
    """
    for name in names:
        if name not in WIDER:
            raise ValueError(
                f'No method {name!r} has more points; there are {", ".join(WIDER)}.'
            )
    return list(names or WIDER)


def check_five_are_there(
    names: Sequence[str], seeds: Sequence[int], records: Sequence[Record]
) -> None:
    """Checks that a trial can be ended by what the five points needed.

    Raises:
      ValueError: If one of the five points of a method has no record of a seed.
    """
    for name in names:
        for seed in seeds:
            found = [
                record.trial.hyperparameters
                for record in records
                if record.trial.method == name and record.trial.seed == seed
            ]
            if any(point not in found for point in METHODS[name].points):
                raise ValueError(
                    f'Not all five points of {name} have been trained with seed '
                    f'{seed}. First run python -m experiments.time_to_target '
                    f'--methods={name} --seeds={seed} on the same workload.'
                )


def format_table(records: Sequence[Record], target: float) -> str:
    """Formats the best of the five points and of all, a row for a method and seed.

    Args:
      records: Records of the five points of each method and of the further ones.
      target: The validation target.

    Raises:
      ValueError: If there are none of the further points.
    """
    rows = []
    for name, method in WIDER.items():
        five, others = (
            scores.records_at(records, name, points)
            for points in (method.points[:TRIALS], method.points[TRIALS:])
        )
        for seed in sorted({record.trial.seed for record in others}):
            of_five, of_others = (
                [record for record in runs if record.trial.seed == seed]
                for runs in (five, others)
            )
            best = scores.best_of(of_others, target)
            fewest_of_others = best.steps_to(target) or math.inf
            fewest = min(
                (run.steps_to(target) or math.inf for run in of_five), default=math.inf
            )
            rows.append(
                [
                    method.label,
                    str(seed),
                    str(len(of_five) + len(of_others)),
                    _number(fewest),
                    _number(min(fewest, fewest_of_others)),
                    (
                        'not as fast'
                        if fewest_of_others >= fewest
                        else _difference(
                            best.trial.hyperparameters, METHODS[name].points[0]
                        )
                    ),
                ]
            )
    if not rows:
        raise ValueError(
            'No point beyond the five has been trained; train first, without --report.'
        )
    return text_tables.markdown(_COLUMNS, rows)


def _number(steps: float) -> str:
    return 'never' if math.isinf(steps) else f'{steps:.0f}'


def _difference(point: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Says in what a point differs from a method's first."""
    return ', '.join(
        f'{key} {json.dumps(value)}'
        for key, value in point.items()
        if value != base[key]
    )


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_list('methods', [], 'Methods; all that have more points if not given.')
    flags.DEFINE_list('seeds', ['0'], 'Seeds.')
    flags.DEFINE_integer('eval_every_steps', 25, 'Steps between evaluations.', 1)
    flags.DEFINE_integer('processes', 2, 'Trials at once.', 1)
    flags.DEFINE_integer('num_threads', 1, 'Threads of each.', 1)
    flags.DEFINE_string('output_dir', str(RESULTS), 'Folder of the results.')
    flags.DEFINE_string('folder', 'runs/wider_search', "Folder of the runner's files.")
    flags.DEFINE_bool('report', False, 'Write the table only.')


def main() -> None:
    """Trains what is missing and writes the table."""
    given = flags.FLAGS
    # The rivals are in PyTorch alone.
    name, framework = given.workload, 'pytorch'
    folder = pathlib.Path(given.output_dir) / f'{name}_{framework}'
    path = folder / 'records.jsonl'
    target = registry.load_workload(name, framework).validation_target_value
    if not given.report:
        names, seeds = chosen_methods(given.methods), parse_seeds(given.seeds)
        records = trials.load_records(path)
        check_five_are_there(names, seeds, records)
        studies = study.make_studies(
            [(method, WIDER[method]) for method in names],
            name,
            framework,
            seeds,
            records,
            target,
        )
        study.run_studies(
            studies,
            path,
            pathlib.Path(given.folder) / f'{name}_{framework}',
            target=target,
            eval_every_steps=given.eval_every_steps,
            processes=given.processes,
            num_threads=given.num_threads,
        )
    text = format_table(trials.load_records(path), target)
    (folder / 'wider_search.md').write_text(text + '\n')
    print(text)


if __name__ == '__main__':
    define_flags()
    command.run(main)
