import dataclasses
import json
import subprocess
import sys

import pytest

from experiments import compare, trials
from submission.settings import Settings


def make_record(method, steps, validation, seconds_per_step=0.1):
    trial = trials.Trial(method, 'ogbg_chembl', 'pytorch', {'step_hint_factor': 1.0}, 0)
    return trials.Record(
        trial=trial,
        steps=steps,
        seconds=[seconds_per_step * step for step in steps],
        validation=validation,
        test=validation,
        seconds_per_step=seconds_per_step,
        machine={},
    )


RECORDS = {
    'nadamw': make_record('nadamw', [20, 40, 60, 80], [0.2, 0.4, 0.5, 0.61]),
    'kfac_expand': make_record('kfac_expand', [20, 40], [0.5, 0.6], 0.12),
    'kfac_reduce': make_record('kfac_reduce', [20, 40], [0.5, 0.65], 0.11),
}


def test_summary_has_the_promised_keys():
    summary = compare.summarise('ogbg_chembl', 'pytorch', 0.6, RECORDS)
    assert set(summary) == {'workload', 'framework', 'target', 'methods'}
    assert list(summary['methods']) == ['nadamw', 'kfac_expand', 'kfac_reduce']
    assert summary['methods']['nadamw'] == {
        'steps_to_target': 80,
        'seconds_to_target': pytest.approx(8.0),
        'training_seconds_to_target': pytest.approx(8.0),
        'compilation_seconds': 0.0,
        'seconds_per_step': 0.1,
        'final_metric': 0.61,
    }
    # The target has to be exceeded; to equal it is not enough.
    assert summary['methods']['kfac_expand']['steps_to_target'] is None
    assert summary['methods']['kfac_expand']['seconds_to_target'] is None
    json.dumps(summary)


def test_table_gives_ratios_to_nadamw():
    table = compare.format_table(
        compare.summarise('ogbg_chembl', 'pytorch', 0.6, RECORDS)
    )
    expand, reduce = table.splitlines()[3:]
    assert 'not reached' in expand
    assert [cell.strip() for cell in reduce.split('|')] == [
        'kfac_reduce',
        '40',
        '4.4',
        '110.0',
        '0.500',
        '0.550',
        '0.6500',
    ]


@pytest.mark.parametrize('workload', ['ogbg_chembl', 'imagenet_vit_fashion_mnist'])
@pytest.mark.parametrize('method', compare.METHODS)
def test_every_method_has_valid_hyperparameters(workload, method):
    point = compare.hyperparameters_of(method, workload)
    settings = Settings.from_hyperparameters(point)
    expected = {'nadamw': 'none', 'kfac_expand': 'expand', 'kfac_reduce': 'reduce'}
    assert settings.approximation == expected[method]


def test_kfac_runs_with_the_same_hyperparameters_on_every_workload():
    for method in ('kfac_expand', 'kfac_reduce'):
        points = [
            compare.hyperparameters_of(method, workload)
            for workload in ('ogbg_chembl', 'imagenet_vit_fashion_mnist')
        ]
        assert points[0] == points[1]


def test_workload_without_reference_names_the_command(tmp_path, monkeypatch):
    path = tmp_path / 'references.json'
    path.write_text('{}')
    monkeypatch.setattr(compare, 'REFERENCES', path)
    with pytest.raises(ValueError, match=r'set_targets --workload=ogbg_chembl'):
        compare.hyperparameters_of('nadamw', 'ogbg_chembl_full')


def test_each_seed_has_a_folder(tmp_path):
    folders = [
        compare.folder_of(tmp_path, 'ogbg_chembl', 'jax', seed).name for seed in (0, 1)
    ]
    assert folders == ['ogbg_chembl_jax', 'ogbg_chembl_jax_seed_1']


OWN_FILES = ('comparison.png', 'details.json', 'summary.json')


def test_a_complete_comparison_is_replaced_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / 'trials' / 'nadamw').mkdir(parents=True)
    for name in (*OWN_FILES, 'nadamw.jsonl'):
        (tmp_path / name).touch()
    found = []

    def run(trial, folder, **options):
        found.append(sorted(path.name for path in tmp_path.iterdir()))
        folder.mkdir(parents=True, exist_ok=True)
        return RECORDS[trial.method]

    monkeypatch.setattr(trials, 'run', run)
    assert compare.compare('ogbg_chembl', 'pytorch', 0, tmp_path, 20, 1) == RECORDS
    assert found[0] == ['nadamw.jsonl']
    # Without a summary it is one that was cut short, and goes on.
    compare.compare('ogbg_chembl', 'pytorch', 0, tmp_path, 20, 1)
    assert found[3] == ['nadamw.jsonl', 'trials']


def test_a_mistake_in_a_reference_does_not_cost_an_earlier_comparison(
    tmp_path, monkeypatch
):
    for name in OWN_FILES:
        (tmp_path / name).touch()
    references = json.loads(compare.REFERENCES.read_text())
    references['ogbg_chembl']['hyperparameters']['beta2'] = -1
    path = tmp_path / 'references.json'
    path.write_text(json.dumps(references))
    monkeypatch.setattr(compare, 'REFERENCES', path)
    with pytest.raises(ValueError, match="'beta2' is -1"):
        compare.compare('ogbg_chembl', 'pytorch', 0, tmp_path, 20, 1)
    assert all((tmp_path / name).exists() for name in OWN_FILES)


@pytest.mark.parametrize(
    'mistake', ['--seed=-1', '--eval_every_steps=0', '--num_threads=0']
)
def test_a_mistake_in_a_flag_does_not_cost_an_earlier_comparison(tmp_path, mistake):
    folder = compare.folder_of(tmp_path, 'ogbg_chembl', 'pytorch', 0)
    folder.mkdir()
    for name in OWN_FILES:
        (folder / name).touch()
    run = subprocess.run(
        [
            sys.executable,
            '-m',
            'experiments.compare',
            f'--output_dir={tmp_path}',
            mistake,
        ],
        cwd=compare.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert mistake.partition('=')[0].removeprefix('--') in run.stderr
    assert sorted(path.name for path in folder.iterdir()) == list(OWN_FILES)


def test_compilation_is_shown_by_itself():
    records = {
        name: dataclasses.replace(
            record, compilation=[1.0, 1.5, 1.5, 1.5][: len(record.steps)]
        )
        for name, record in RECORDS.items()
    }
    summary = compare.summarise('ogbg_chembl', 'jax', 0.6, records)
    nadamw = summary['methods']['nadamw']
    assert nadamw['seconds_to_target'] == pytest.approx(8.0)
    assert nadamw['training_seconds_to_target'] == pytest.approx(6.5)
    assert nadamw['compilation_seconds'] == 1.5
    assert summary['methods']['kfac_expand']['training_seconds_to_target'] is None
    header, _, _, _, reduce = compare.format_table(summary).splitlines()
    cells = dict(
        zip(
            (name.strip() for name in header.split('|')),
            (cell.strip() for cell in reduce.split('|')),
            strict=True,
        )
    )
    assert cells['seconds to target'] == '4.4'
    assert cells['compiling'] == '1.5'
    assert cells['without'] == '2.9'
    assert cells['seconds / NAdamW'] == '0.550'
    assert cells['without / NAdamW'] == '0.446'
