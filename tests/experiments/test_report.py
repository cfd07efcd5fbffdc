from experiments import report, trials


def make_record(rate, seed, steps_to_target):
    steps = [50, 100, 150]
    return trials.Record(
        trial=trials.Trial('kfac', 'w', 'pytorch', {'learning_rate': rate}, seed),
        steps=steps,
        seconds=[1.0, 2.0, 3.0],
        validation=[
            0.9 if steps_to_target and step >= steps_to_target else 0.1
            for step in steps
        ],
        test=[0.0] * 3,
        seconds_per_step=0.1,
        machine={},
    )


def test_only_points_with_all_seeds_count():
    records = [make_record(1, 1, 50), make_record(1, 0, 100), make_record(2, 0, 50)]
    (runs,) = report.complete_points(records, [0, 1])
    assert [run.trial.seed for run in runs] == [0, 1]
    assert {run.trial.hyperparameters['learning_rate'] for run in runs} == {1}


def test_rows():
    runs = [make_record(1, seed, to) for seed, to in enumerate((100, 50, None))]
    row = report.make_row('name', runs, 0.5, 400)
    assert row == ['name', '100 (100, 50, -)', '0.25', '0.9000']
    missed = report.make_row('name', [runs[2]] * 3, 0.5, 400)
    assert missed == ['name', '- (-, -, -)', '-', '0.1000']
