import types

import pytest

from experiments import trials
from experiments.time_to_target import study, wider_search
from experiments.time_to_target.methods import METHODS, WIDER
from experiments.trials import Record, Trial

WORKLOAD = 'ogbg_chembl'
# Above any validation target.
REACHED = 1.0


def record(method, point, reaches_at=None, seed=0):
    steps = [25, 50, 75]
    return Record(
        trial=Trial(
            method, WORKLOAD, 'pytorch', point, seed, METHODS[method].submission
        ),
        steps=steps,
        seconds=[0.1 * step for step in steps],
        validation=[
            REACHED if reaches_at is not None and step >= reaches_at else 0.0
            for step in steps
        ],
        test=[],
        seconds_per_step=0.1,
        machine={},
    )


def five(method, reaches_at=None, seed=0):
    return [record(method, p, reaches_at, seed) for p in METHODS[method].points]


@pytest.fixture
def start(tmp_path, monkeypatch):
    def run(**flags):
        values = {
            'workload': WORKLOAD,
            'methods': ['soap'],
            'seeds': ['0'],
            'eval_every_steps': 25,
            'processes': 1,
            'num_threads': 1,
            'output_dir': str(tmp_path),
            'folder': str(tmp_path / 'runs'),
            'report': False,
            **flags,
        }
        given = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))
        monkeypatch.setattr(wider_search, 'flags', given)
        wider_search.main()

    return run


def results(tmp_path):
    return tmp_path / f'{WORKLOAD}_pytorch'


def add(path, records):
    for each in records:
        trials.append_record(path, each)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'methods': ['nadamw']}, "'nadamw' has more points; there are kfac_expand"),
        ({'methods': ['x']}, "No method 'x' has more points"),
        ({}, 'five points of soap have been trained with seed 0.*--methods=soap'),
        ({'workload': 'x'}, "Unknown workload 'x'"),
        ({'report': True}, 'No point beyond the five has been trained; train first'),
    ],
)
def test_mistakes_are_named_and_leave_nothing(start, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        start(**flags)
    assert list(tmp_path.iterdir()) == []


def test_another_seed_of_the_five_does_not_do(start, tmp_path):
    add(results(tmp_path) / 'records.jsonl', five('soap', seed=1))
    with pytest.raises(ValueError, match='have been trained with seed 0'):
        start()


def test_trains_what_is_missing_until_the_five_were_faster(
    start, tmp_path, monkeypatch, capsys
):
    path = results(tmp_path) / 'records.jsonl'
    others = WIDER['soap'].points[5:]
    add(path, [*five('soap', reaches_at=50), record('soap', others[0])])
    trained = []

    def run(trial, folder, *, step_limit, **_):
        trained.append((trial.hyperparameters, step_limit))
        return record('soap', trial.hyperparameters, reaches_at=25)

    monkeypatch.setattr(study.trials, 'run', run)
    monkeypatch.setattr(study, 'process_pool', in_this_process)
    start()
    assert [point for point, _ in trained] == list(others[1:])
    assert [limit for _, limit in trained] == [50] + (len(others) - 2) * [25]
    n_points = len(WIDER['soap'].points)
    assert len(trials.load_records(path)) == n_points
    table = (results(tmp_path) / 'wider_search.md').read_text()
    assert table in capsys.readouterr().out
    (row,) = table.splitlines()[2:]
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert cells[:5] == ['SOAP', '0', str(n_points), '50', '25']
    assert cells[5] == 'learning_rate 0.015, step_hint_factor 0.5'
    trained.clear()
    start()
    assert trained == []


def test_a_method_that_never_gets_there(start, tmp_path):
    path = results(tmp_path) / 'records.jsonl'
    add(path, five('muon') + five('soap', 25))
    others = [
        record(name, point)
        for name in ('muon', 'soap')
        for point in WIDER[name].points[5:]
    ]
    forgotten = {**WIDER['soap'].points[0], 'learning_rate': 0.5}
    add(path, [*others, record('soap', forgotten, reaches_at=25)])
    start(report=True)
    table = (results(tmp_path) / 'wider_search.md').read_text()
    n_soap, n_muon = (len(WIDER[name].points) for name in ('soap', 'muon'))
    assert f'| SOAP | 0 | {n_soap} | 25 | 25 | not as fast |' in table
    assert f'| Muon | 0 | {n_muon} | never | never | not as fast |' in table


def in_this_process(processes):
    """A pool that does at once what it is given."""
    del processes

    class Pool:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, function, *args, **kwargs):
            future = study.concurrent.futures.Future()
            future.set_result(function(*args, **kwargs))
            return future

    return Pool()
