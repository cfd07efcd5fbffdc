"""Records of trials that never ran."""

from experiments.trials import Record, Trial


def make_record(method='nadamw', point=0, seed=0, reaches_at=None, steps=(10, 20, 30)):
    """A record above a target of 0.5 from one step on, if at all."""
    trial = Trial(method, 'workload', 'pytorch', {'point': point}, seed)
    validation = [
        0.6 if reaches_at is not None and step >= reaches_at else 0.1 for step in steps
    ]
    return Record(
        trial=trial,
        steps=list(steps),
        seconds=[0.5 * step for step in steps],
        validation=validation,
        test=[],
        seconds_per_step=0.5,
        machine={},
    )
