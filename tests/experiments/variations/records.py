"""Results made by hand, of trials that never ran."""

from experiments.trials import Record
from experiments.variations.points import Point
from experiments.variations.results import Results

WORKLOAD = 'imagenet_vit_fashion_mnist'
TARGET = 0.5
# The workload's step hint is 1000.
BASE = {
    'approximation': 'reduce',
    'learning_rate': 0.01,
    'one_minus_beta1': 0.1,
    'beta2': 0.95,
    'weight_decay': 0.2,
    'warmup_factor': 0.05,
    'step_hint_factor': 0.04,
    'damping': 0.1,
    'statistics_interval': 10,
    'inverse_interval': 10,
}


def make_record(trial, reaches_at=None, end=0.6, stops=False):
    """A record of 40 steps, evaluated every 10, or up to the target."""
    steps = [10, 20, 30, 40]
    validation = [
        0.6 if reaches_at is not None and step >= reaches_at else 0.1 for step in steps
    ]
    validation[-1] = end if reaches_at is not None else min(end, 0.4)
    if stops and reaches_at is not None:
        kept = reaches_at // 10
        steps, validation = steps[:kept], validation[:kept]
    return Record(
        trial=trial,
        steps=steps,
        seconds=[0.5 * step for step in steps],
        validation=validation,
        test=[],
        seconds_per_step=0.5,
        machine={},
    )


def make_results(runs, seeds=(0, 1, 2)):
    """Results from pairs of a point and what `make_record` takes for each seed."""
    empty = Results(WORKLOAD, 'pytorch', list(seeds), TARGET, 'accuracy', {})
    records = {}
    for point, of_seeds in runs:
        for trial, values in zip(empty.trials_of(point), of_seeds, strict=False):
            records[trial.key] = make_record(trial, **values)
    return Results(WORKLOAD, 'pytorch', list(seeds), TARGET, 'accuracy', records)


def point(**changes):
    return Point('some', {**BASE, **changes})
