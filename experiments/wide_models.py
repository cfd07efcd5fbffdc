r"""Trains narrow and wide models at the same points: which learning rates carry over?

Examples::

    python -m experiments.wide_models --workload=imagenet_vit_fashion_mnist_wide
    python -m experiments.wide_models --only='point 1 of five,NAdamW' --seeds=0,1,2

The learning rates of the experiments were found on narrow models. Here a wider one is
trained at the first point of K-FAC-reduce and by the tuned NAdamW reference, with the
same rate in all layers and shares of it; at points of K-FAC with a `fan_in_exponent`,
by which rates fall with the number of the inputs of a layer
(`experiments/search_spaces/kfac_fan_in.json`), with the spectral rule as well
(`kfac_spectral_fan_in.json`); and at the points of
`tuning_search_space.json`, with and without the `weight_decay_exponent` of these, which
makes a difference on schedules of more than 1000 steps; each until it reaches the
target.

Records go to `results/wide_models/<workload>_pytorch.jsonl` as they come; what is
recorded is not trained again. Prints a Markdown table, with a row for each point that
has been trained with all seeds and one for the best of either five.
"""

import json
import pathlib

from absl import flags

from experiments import command, compare, text_tables, trials
from experiments.seeds import parse_seeds
from experiments.steps_to_target import format_steps
from experiments.time_to_target import scores
from experiments.time_to_target.methods import METHODS, at_rate
from experiments.trials import Record
from experiments.variations.points import Point, choose_names
from experiments.variations.results import Results
from submission.settings import Settings

_HERE = pathlib.Path(__file__).parent
RESULTS = _HERE / 'results' / 'wide_models'
_FIVE = json.loads((_HERE.parent / 'tuning_search_space.json').read_text())
# Names of what is compared by its five points to these.
FIVES = {
    'of five': _FIVE,
    # The same with the weight decay of short schedules on those of any length.
    'of one weight decay': [
        {key: value for key, value in point.items() if key != 'weight_decay_exponent'}
        for point in _FIVE
    ],
    'with an exponent': json.loads(
        (_HERE / 'search_spaces' / 'kfac_fan_in.json').read_text()
    ),
    'of the spectral rule': json.loads(
        (_HERE / 'search_spaces' / 'kfac_spectral_fan_in.json').read_text()
    ),
}
_SHARES = {
    '': 1.0,
    ' at half the rate': 0.5,
    ' at a quarter of the rate': 0.25,
    ' at an eighth of the rate': 1 / 8,
    ' at a 16th of the rate': 1 / 16,
    ' at a 32nd of the rate': 1 / 32,
    ' at a 64th of the rate': 1 / 64,
}


def five_points(title: str) -> list[Point]:
    """Returns five points, named by their numbers.

    Args:
      title: A key of `FIVES`.
    """
    return [
        Point(f'point {number} {title}', point)
        for number, point in enumerate(FIVES[title], start=1)
    ]


def all_points(workload: str) -> list[Point]:
    """Returns what to train.

    Args:
      workload: Name of the workload.
    """
    bases = {
        'NAdamW': compare.hyperparameters_of('nadamw', workload),
        'K-FAC-reduce': METHODS['kfac_reduce'].points[0],
    }
    shares = [
        Point(f'{name}{title}', at_rate(base, share))
        for name, base in bases.items()
        for title, share in _SHARES.items()
    ]
    return [*shares, *(point for title in FIVES for point in five_points(title))]


def format_table(results: Results) -> str:
    """Formats the steps to the target, the median and those of each seed.

    Args:
      results: What has been recorded.

    Raises:
      ValueError: If no point has been trained with all of the seeds.
    """
    target = results.target
    rows: list[list[str]] = []
    runs_at: dict[str, list[Record]] = {}
    for point in all_points(results.workload):
        runs = results.runs_of(point)
        if not runs:
            continue
        runs_at[point.name] = runs
        settings = Settings.from_hyperparameters(point.hyperparameters)
        power = settings.averaging_power
        numbers = (
            settings.learning_rate,
            settings.fan_in_exponent,
            settings.step_hint_factor,
        )
        rows.append(
            [
                point.name,
                settings.approximation,
                *(f'{number:g}' for number in numbers),
                '-' if power is None else f'{power:g}',
                format_steps(runs, target),
            ]
        )
    if not rows:
        raise ValueError(
            f'No point has been trained on {results.workload} with all of the seeds '
            f'{", ".join(map(str, results.seeds))}; train first, without --report.'
        )
    for title in FIVES:
        names = [point.name for point in five_points(title)]
        if runs_at.keys() >= set(names):
            of_five = [runs_at[name] for name in names]
            best = [scores.best_of(runs, target) for runs in zip(*of_five, strict=True)]
            name = f'best point {title}, of each seed'
            rows.append([name, *[''] * 5, format_steps(best, target)])
    header = [
        'Trained',
        'approximation',
        'learning rate',
        'fan_in_exponent',
        'step_hint_factor',
        'averaging_power',
        'steps to the target',
    ]
    return text_tables.markdown(header, rows)


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string(
        'workload', 'imagenet_vit_fashion_mnist_wide', 'Name of the workload.'
    )
    flags.DEFINE_list('only', [], 'Names of the points to train; all if not given.')
    flags.DEFINE_list('seeds', ['0'], 'Seeds to train each point with.')
    flags.DEFINE_integer('eval_every_steps', 25, 'Steps between evaluations.', 1)
    flags.DEFINE_integer('processes', 2, 'Trials at once.', 1)
    flags.DEFINE_string('output_dir', str(RESULTS), 'Folder of the results.')
    flags.DEFINE_string('folder', 'runs/wide_models', "Folder of the runner's files.")
    flags.DEFINE_bool('report', False, 'Print the table only.')


def main() -> None:
    """Trains what is missing and prints the table."""
    given = flags.FLAGS
    name, seeds = given.workload, parse_seeds(given.seeds)
    path = pathlib.Path(given.output_dir) / f'{name}_pytorch.jsonl'

    def load() -> Results:
        return Results.load([path], name, 'pytorch', seeds)

    results = load()
    if not given.report:
        points = {point.name: point for point in all_points(name)}
        wanted = [
            trial
            for chosen in choose_names(given.only, list(points))
            for trial in results.trials_of(points[chosen])
        ]
        trials.train(
            [trial for trial in wanted if trial.key not in results.records],
            path,
            pathlib.Path(given.folder) / f'{name}_pytorch',
            eval_every_steps=given.eval_every_steps,
            processes=given.processes,
            stop_at_targets=True,
            validation_only=True,
        )
        results = load()
    print(format_table(results))


if __name__ == '__main__':
    define_flags()
    command.run(main)
