import types

import pytest

from experiments import trials
from experiments.variations import __main__ as variations
from tests.experiments.variations.records import WORKLOAD, make_record

GIVEN = {
    'study': 'tried',
    'workload': WORKLOAD,
    'framework': 'pytorch',
    'approximations': ['reduce'],
    'seeds': ['0', '1'],
    'only': ['damping 0.3', 'damping 0.03'],
    'full': False,
    'eval_every_steps': 10,
    'processes': 1,
    'num_threads': 1,
    'report': False,
}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs the command with flags; returns the trials that it trained."""

    def run(dies_after=None, **flags):
        trained = []

        def train(missing, path, folder, *, stop_at_targets, describe, **options):
            assert options == {
                'eval_every_steps': 10,
                'processes': 1,
                'num_threads': 1,
                'validation_only': True,
            }
            assert folder.name == given.study
            for trial in missing:
                if len(trained) == dies_after:
                    raise KeyboardInterrupt
                record = make_run(trial, stops=stop_at_targets)
                trials.append_record(path, record)
                trained.append(trial)
                assert describe(record).endswith(f'seed {trial.seed}: 20 steps')
            return []

        given = types.SimpleNamespace(
            **{
                **GIVEN,
                'output_dir': str(tmp_path / 'results'),
                'folder': str(tmp_path / 'runs'),
                **flags,
            }
        )
        monkeypatch.setattr(trials, 'train', train)
        monkeypatch.setattr(variations, 'flags', types.SimpleNamespace(FLAGS=given))
        try:
            variations.main()
        except KeyboardInterrupt:
            assert dies_after is not None
        return [(trial.hyperparameters.get('damping'), trial.seed) for trial in trained]

    return run


def make_run(trial, stops):
    """A record above the target at step 20, that goes on unless it stops there."""
    record = make_record(trial, reaches_at=20, end=0.9, stops=stops)
    record.validation[1] = 0.9
    if not stops:
        record.steps[-1] = trials.schedule_steps(trial)
    return record


ALL = [(d, seed) for seed in (0, 1) for d in (0.1, 0.3, 0.03)]


def test_a_run_that_is_killed_goes_on(start, tmp_path, capsys):
    assert start(dies_after=4) == ALL[:4]
    assert start() == ALL[4:]
    assert start() == []
    folder = tmp_path / 'results' / f'{WORKLOAD}_pytorch'
    assert len(trials.load_records(folder / 'tried.jsonl')) == 6
    table = (folder / 'tried.md').read_text()
    assert table.count('| 20 (20, 20) | 1.00 | 0.9000\\* | - |') == 3
    assert table in capsys.readouterr().out + '\n'


def test_full_trains_again_and_only_once(start):
    start()
    assert start(full=True) == ALL
    assert start(full=True) == []
    assert start() == []


def test_one_study_uses_the_records_of_the_other(start, tmp_path):
    start(seeds=['0'])
    trained = start(study='sensitivity', only=['damping'], seeds=['0'])
    assert trained == [(d, 0) for d in (0.01, 0.025, 0.05, 0.2, 0.4, 1.0)]
    folder = tmp_path / 'results' / f'{WORKLOAD}_pytorch'
    assert (folder / 'sensitivity.png').exists()
    table = (folder / 'sensitivity.md').read_text()
    assert f'| damping | K-FAC-reduce | 0.1 {"| 20 (20) " * 7}|' in table


def test_base_point_of_all_sweeps_trains_once(start):
    trained = start(study='sensitivity', only=[], seeds=['0'])
    # Seven points of NAdamW, seven dampings; twice six other points with the base
    # point's damping.
    assert len(trained) == 7 + 7 + 6 + 6
    assert trained.count((None, 0)) == 7
    assert trained.count((0.1, 0)) == 1 + 6 + 6


def test_report_trains_nothing(start, tmp_path):
    with pytest.raises(
        ValueError, match='no point of this study with all of the seeds'
    ):
        start(report=True)
    start()
    table = tmp_path / 'results' / f'{WORKLOAD}_pytorch' / 'tried.md'
    written = table.read_text()
    table.unlink()
    assert start(report=True, only=[]) == []
    assert table.read_text() == written


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (
            {'only': ['x']},
            "--only: there is no 'x'; there are base, empirical F",
        ),
        (
            {'study': 'sensitivity'},
            "there is no 'damping 0.3'; there are learning_rate",
        ),
        ({'study': 'sensitivity', 'full': True}, '--full is for --study=tried'),
        ({'seeds': ['0', 'a']}, "--seeds has 'a'; give whole numbers"),
        ({'seeds': []}, '--seeds is empty'),
        ({'approximations': ['x']}, "No approximation 'x'"),
        ({'workload': 'x'}, "Unknown workload 'x'; there are"),
    ],
)
def test_mistakes(start, flags, message):
    with pytest.raises(ValueError, match=message) as caught:
        start(**flags)
    assert '\n' not in str(caught.value)
