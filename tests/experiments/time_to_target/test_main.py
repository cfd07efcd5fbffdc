import dataclasses
import json
import types

import pytest

from experiments import trials
from experiments.time_to_target import __main__ as time_to_target
from experiments.time_to_target import step_times
from experiments.time_to_target.methods import METHODS
from tests.experiments.time_to_target.records import make_record

WORKLOAD = 'imagenet_vit_fashion_mnist'
GIVEN = {
    'workload': WORKLOAD,
    'framework': 'pytorch',
    'methods': [],
    'seeds': ['0'],
    'eval_every_steps': 10,
    'processes': 1,
    'num_threads': 1,
    'step_times': False,
    'rounds': 1,
    'report': False,
}


@pytest.fixture
def start(tmp_path, monkeypatch):
    def run(**flags):
        values = {
            **GIVEN,
            'output_dir': str(tmp_path / 'results'),
            'folder': str(tmp_path / 'runs'),
            **flags,
        }
        given = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))
        monkeypatch.setattr(time_to_target, 'flags', given)
        time_to_target.main()

    return run


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'report': True}, 'has no method with all 5 trials of a seed; train first'),
        ({'workload': 'nosuch'}, "Unknown workload 'nosuch'"),
        ({'workload': 'nosuch', 'report': True}, "Unknown workload 'nosuch'"),
        ({'workload': 'nosuch', 'step_times': True}, "Unknown workload 'nosuch'"),
        ({'methods': ['x']}, "No method 'x' in pytorch"),
        ({'seeds': ['x']}, "--seeds has 'x'"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(start, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        start(**flags)
    assert list(tmp_path.iterdir()) == []


def record_study(path, name, reaches_at):
    method = METHODS[name]
    for point in method.points:
        record = make_record(name, 0, 0, reaches_at)
        record = dataclasses.replace(
            record,
            # Above any target, where it gets there.
            validation=[v if v < 0.5 else 1.0 for v in record.validation],
            trial=trials.Trial(name, WORKLOAD, 'pytorch', point, 0, method.submission),
        )
        trials.append_record(path, record)


def test_reports_what_there_is(start, tmp_path, monkeypatch, capsys):
    def measure(workload, framework, methods, folder, rounds):
        content = {'machine': {}, 'median': {'nadamw': 0.1}, 'compilation': {}}
        folder.mkdir(parents=True)
        (folder / 'step_times.json').write_text(json.dumps(content))

    monkeypatch.setattr(step_times, 'measure', measure)
    # There is nothing to report yet.
    start(step_times=True)
    folder = tmp_path / 'results' / f'{WORKLOAD}_pytorch'
    assert [path.name for path in folder.iterdir()] == ['step_times.json']
    record_study(folder / 'records.jsonl', 'nadamw', 30)
    record_study(folder / 'records.jsonl', 'soap', 20)
    capsys.readouterr()
    start(report=True)
    printed = capsys.readouterr().out
    assert '| SOAP | 1 of 1 | 20 | 0.67 | - | - | - |' in printed
    assert '| NAdamW | 1 of 1 | 30 | 1.00 | 3.0 | 1.00 | 100.0 |' in printed
    assert 'has not been timed (`--step_times`): SOAP.' in printed
    assert {path.name for path in folder.iterdir()} == {
        'curves.png',
        'profile.png',
        'records.jsonl',
        'step_times.json',
        'summary.json',
        'table.md',
    }
