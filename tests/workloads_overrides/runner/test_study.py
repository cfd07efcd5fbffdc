import dataclasses
import json
import types

import pytest

from tests.workloads_overrides.runner import fake_submission, fakes
from workloads_overrides import registry
from workloads_overrides.runner.config import StudyConfig
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.study import run_study
from workloads_overrides.runner.submission_functions import (
    functions_of,
    load_submission,
)


@pytest.fixture
def space(tmp_path):
    path = tmp_path / 'space.json'
    path.write_text(json.dumps([{'learning_rate': rate} for rate in (0.1, 0.2, 0.3)]))
    return str(path)


def external(folder, space, **changes):
    settings = {
        'tuning_ruleset': 'external',
        'tuning_search_space': space,
        'num_tuning_trials': 3,
        'max_global_steps': 2,
        'eval_every_steps': None,
    }
    return fakes.study_config(folder, **{**settings, **changes})


def trials_in(folder):
    return sorted(path.name for path in folder.glob('trial_*'))


def test_external_trains_each_point_in_its_folder(tmp_path, space):
    results = run_study(external(tmp_path, space))
    folder = tmp_path / 'experiment' / 'fake_pytorch'
    assert len(results) == 3
    assert trials_in(folder) == ['trial_1', 'trial_2', 'trial_3']
    for number, rate in enumerate((0.1, 0.2, 0.3), start=1):
        content = (folder / f'trial_{number}' / 'hparams.json').read_text()
        assert json.loads(content) == {'learning_rate': rate}


def test_slices_keep_their_numbers_and_share_an_experiment(tmp_path, space):
    folder = tmp_path / 'experiment' / 'fake_pytorch'
    run_study(external(tmp_path, space, hparam_start_index=1, hparam_end_index=2))
    assert trials_in(folder) == ['trial_2']
    content = (folder / 'trial_2' / 'hparams.json').read_text()
    assert json.loads(content) == {'learning_rate': 0.2}
    run_study(external(tmp_path, space, hparam_start_index=2))
    assert trials_in(folder) == ['trial_2', 'trial_3']
    with pytest.raises(RunnerError, match='trial_2'):
        run_study(external(tmp_path, space, hparam_start_index=1))
    with pytest.raises(RunnerError, match=r'none of the 3 point\(s\)'):
        run_study(external(tmp_path, space, hparam_start_index=3))


def test_self_tuning_writes_the_first_trial_without_hyperparameters(tmp_path):
    run_study(fakes.study_config(tmp_path, max_global_steps=1))
    folder = tmp_path / 'experiment' / 'fake_pytorch'
    assert trials_in(folder) == ['trial_1']
    assert not (folder / 'trial_1' / 'hparams.json').exists()


def test_study_and_timestamp_in_the_path(tmp_path):
    run_study(fakes.study_config(tmp_path, max_global_steps=1, study=2))
    assert (tmp_path / 'experiment/study_2/fake_pytorch/trial_1').is_dir()
    run_study(fakes.study_config(tmp_path, max_global_steps=1, append_timestamp=True))
    (stamped,) = tmp_path.glob('experiment-20*')
    assert (stamped / 'fake_pytorch' / 'trial_1').is_dir()


def test_existing_experiments(tmp_path):
    config = fakes.study_config(tmp_path, max_global_steps=1)
    run_study(config)
    trial = tmp_path / 'experiment' / 'fake_pytorch' / 'trial_1'
    (trial / 'stale').touch()
    with pytest.raises(RunnerError, match=r'--resume_last_run.*--overwrite'):
        run_study(config)
    run_study(fakes.study_config(tmp_path, max_global_steps=1, resume_last_run=True))
    assert (trial / 'stale').exists()
    run_study(fakes.study_config(tmp_path, max_global_steps=1, overwrite=True))
    assert not (trial / 'stale').exists()


def test_nothing_is_deleted_when_the_command_is_wrong(tmp_path):
    run_study(fakes.study_config(tmp_path, max_global_steps=1))
    with pytest.raises(RunnerError, match='no such file'):
        run_study(
            fakes.study_config(tmp_path, overwrite=True, submission_path='absent.py')
        )
    assert (tmp_path / 'experiment/fake_pytorch/trial_1/result.json').exists()


@pytest.mark.parametrize(
    ('rate', 'message'),
    [(-0.3, "'learning_rate' is -0.3"), ('fast', "not supported .* 'str'")],
)
def test_all_points_are_checked_before_any_folder_is_touched(
    tmp_path, space, rate, message
):
    run_study(external(tmp_path, space, num_tuning_trials=1))
    points = [{'learning_rate': value} for value in (0.1, 0.2, rate)]
    bad = tmp_path / 'bad.json'
    bad.write_text(json.dumps(points))
    message = rf'bad\.json, point 2: .*{message}'
    with pytest.raises(RunnerError, match=message):
        run_study(external(tmp_path, str(bad), overwrite=True))
    assert (tmp_path / 'experiment/fake_pytorch/trial_1/result.json').exists()
    with pytest.raises(RunnerError, match=message):
        run_study(external(tmp_path, str(bad), experiment_name='other'))
    assert not (tmp_path / 'other').exists()
    # What is not to be trained is not looked at.
    run_study(external(tmp_path, str(bad), num_tuning_trials=2, overwrite=True))


def test_a_workload_without_batch_size_deletes_nothing(tmp_path, monkeypatch):
    run_study(fakes.study_config(tmp_path, max_global_steps=1))

    def refuse(workload_name):
        raise ValueError(f'no {workload_name}')

    monkeypatch.setattr(fake_submission, 'get_batch_size', refuse)
    with pytest.raises(RunnerError, match=r'fake_submission\.py: get_batch.*no fake'):
        run_study(fakes.study_config(tmp_path, overwrite=True))
    assert (tmp_path / 'experiment/fake_pytorch/trial_1/result.json').exists()


def test_a_corrected_search_space_counts_after_a_failed_start(
    tmp_path, space, monkeypatch
):
    def fail(*arguments):
        raise ValueError('not this rate')

    with monkeypatch.context() as patch:
        patch.setattr(fake_submission, 'init_optimizer_state', fail)
        with pytest.raises(ValueError, match='not this rate'):
            run_study(external(tmp_path, space, num_tuning_trials=1))
    path = tmp_path / 'experiment/fake_pytorch/trial_1/hparams.json'
    assert json.loads(path.read_text()) == {'learning_rate': 0.1}
    with open(space, 'w') as file:
        json.dump([{'learning_rate': 0.4}], file)
    run_study(external(tmp_path, space, num_tuning_trials=1, resume_last_run=True))
    assert json.loads(path.read_text()) == {'learning_rate': 0.4}


def test_saved_hyperparameters_win_on_resume(tmp_path, space):
    run_study(external(tmp_path, space, num_tuning_trials=1))
    with open(space, 'w') as file:
        json.dump([{'learning_rate': 9.0}], file)
    run_study(
        external(
            tmp_path,
            space,
            num_tuning_trials=1,
            resume_last_run=True,
            max_global_steps=3,
        )
    )
    trial = tmp_path / 'experiment' / 'fake_pytorch' / 'trial_1'
    assert json.loads((trial / 'hparams.json').read_text()) == {'learning_rate': 0.1}
    assert (trial / 'flags_1.json').exists()


def test_an_ended_trial_says_that_it_had_other_hyperparameters(tmp_path, space, caplog):
    (first,) = run_study(external(tmp_path, space, num_tuning_trials=1))
    again = external(tmp_path, space, num_tuning_trials=1, resume_last_run=True)
    assert run_study(again) == [first]
    assert 'differs from the search space' not in caplog.text
    with open(space, 'w') as file:
        json.dump([{'learning_rate': 9.0}], file)
    assert run_study(again) == [first]
    assert 'differs from the search space' in caplog.text


@pytest.mark.parametrize('max_global_steps', [2, 3])
def test_a_trial_keeps_its_ruleset(tmp_path, space, max_global_steps):
    run_study(external(tmp_path, space, num_tuning_trials=1))
    config = fakes.study_config(
        tmp_path, max_global_steps=max_global_steps, resume_last_run=True
    )
    with pytest.raises(RunnerError, match='cannot go on under the self-tuning ruleset'):
        run_study(config)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(RunnerError, match=r'trial_1 cannot be made \(Not a directory'):
        run_study(fakes.study_config(tmp_path / 'file'))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'tuning_ruleset': 'other'}, "'external' or 'self'"),
        ({'tuning_ruleset': 'external'}, 'needs --tuning_search_space'),
        ({'tuning_search_space': 'a.json'}, 'takes no --tuning_search_space'),
        ({'overwrite': True, 'resume_last_run': True}, 'exclude each other'),
        ({'max_global_steps': 0}, 'max_global_steps must be at least 1, got 0'),
        ({'eval_every_steps': 0}, 'eval_every_steps must be at least 1'),
        ({'checkpoint_every_steps': -1}, 'checkpoint_every_steps must be at least 1'),
        ({'num_tuning_trials': 0}, 'num_tuning_trials must be at least 1'),
        ({'num_threads': 0}, 'num_threads must be at least 1'),
        ({'study': -1}, 'study must be at least 0'),
        ({'rng_seed': -1}, 'rng_seed must be at least 0'),
        ({'hparam_start_index': -1}, 'hparam_start_index must be at least 0'),
    ],
)
def test_mistakes_in_the_configuration(tmp_path, changes, message):
    with pytest.raises(RunnerError, match=message):
        fakes.study_config(tmp_path, **changes)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'workload': 'mnist'}, "Unknown workload 'mnist'; there are: .*fake,"),
        ({'framework': 'jax'}, "'fake' has no implementation for framework 'jax'.*pyt"),
        ({'submission_path': 'setup.cfg'}, r'must be a Python file \(\.py\)'),
        ({'submission_path': '../other.py'}, 'must lie inside the working directory'),
        ({'submission_path': '/other.py'}, 'must lie inside the working directory'),
        ({'submission_path': 'absent.py'}, 'absent.py: there is no such file'),
        (
            {'submission_path': 'submission/jax_submission.py'},
            r'jax_submission\.py: imports jax and not torch, .*--framework=jax, but',
        ),
        (
            {'workload': 'imagenet_vit_fashion_mnist', 'data_dir': '/nowhere'},
            'Data of imagenet_vit_fashion_mnist: data_dir /nowhere: there is no such',
        ),
        (
            {'workload': 'ogbg_chembl', 'data_dir': '/nowhere'},
            'Data of ogbg_chembl: data_dir /nowhere: there is no such folder',
        ),
    ],
)
def test_mistakes_in_what_is_to_run(tmp_path, changes, message):
    with pytest.raises(RunnerError, match=message):
        run_study(fakes.study_config(tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_missing_functions_are_named():
    module = types.ModuleType('incomplete')
    module.get_batch_size = fake_submission.get_batch_size
    module.update_params = fake_submission.update_params
    with pytest.raises(
        RunnerError, match=r'incomplete lacks .* init_optimizer_state, data_selection;'
    ):
        functions_of(module)


@pytest.mark.parametrize('name', ['prepare_for_eval', 'validate_hyperparameters'])
def test_some_functions_are_optional(name):
    module = types.ModuleType('without')
    vars(module).update(vars(fake_submission))
    delattr(module, name)
    assert getattr(functions_of(module), name) is None


def batch_size_for(names):
    def get_batch_size(name):
        if name not in names:
            raise ValueError(name)
        return names[name]

    module = types.ModuleType('sizes')
    vars(module).update(vars(fake_submission))
    module.get_batch_size = get_batch_size
    return functions_of(module).batch_size


def test_batch_size_falls_back_to_the_base_workload():
    assert batch_size_for({'fake': 8, 'fake_variant': 4})('fake_variant') == 4
    assert batch_size_for({'fake': 8})('fake_variant') == 8
    with pytest.raises(ValueError, match=r'^fake$'):
        batch_size_for({})('fake_variant')
    with pytest.raises(ValueError, match=r'^fake$'):
        batch_size_for({})('fake')


def test_absolute_path_inside_the_working_directory_is_the_same_module(monkeypatch):
    root = fakes.__file__[: -len('tests/workloads_overrides/runner/fakes.py')]
    found = load_submission(root + fakes.SUBMISSION_PATH)
    assert found.update_params is fake_submission.update_params


def test_registry_holds_the_workloads_and_their_bases():
    assert registry.base_name('ogbg_chembl_full') == 'ogbg_chembl'
    assert registry.base_name('ogbg_chembl') == 'ogbg_chembl'
    name = 'imagenet_vit_fashion_mnist'
    assert registry.base_name(f'{name}_s16') == name
    assert isinstance(registry.load_workload('fake', 'pytorch'), fakes.FakeWorkload)
    held_out = [key for key in registry.WORKLOADS if registry.is_held_out(key)]
    assert held_out == [
        'ogbg_chembl_gelu',
        f'{name}_glu',
    ]


def test_each_trial_has_its_own_workload(tmp_path, space, monkeypatch):
    made = []
    init = fakes.FakeWorkload.__init__

    def counting_init(self):
        made.append(self)
        init(self)

    monkeypatch.setattr(fakes.FakeWorkload, '__init__', counting_init)
    run_study(external(tmp_path, space))
    assert len(set(map(id, made))) == 3


def test_the_configuration_is_written_down(tmp_path):
    config = fakes.study_config(tmp_path, max_global_steps=1)
    run_study(config)
    path = tmp_path / 'experiment/fake_pytorch/trial_1/flags_0.json'
    written = json.loads(path.read_text())
    fields = {field.name for field in dataclasses.fields(StudyConfig)}
    assert StudyConfig(**{name: written[name] for name in fields}) == config
