import pytest
import torch
from absl import logging

from tests.workloads_overrides.runner.damage import KINDS, damage
from workloads_overrides.runner import atomic_files, global_rng
from workloads_overrides.runner.checkpoints import (
    restore_checkpoint,
    save_checkpoint,
)
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.pytorch_framework import PyTorchFramework
from workloads_overrides.runner.state import RunnerState, TrainingState

PYTORCH = PyTorchFramework()


def new_state(fill=0.0):
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.weight, fill)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return TrainingState({'optimizer': optimizer}, model, {'mean': torch.ones(2)})


def save(folder, step, keep_older=True, **runner_state):
    state = new_state(fill=float(step))
    state.model_params(torch.ones(2)).sum().backward()
    state.optimizer_state['optimizer'].step()
    state.global_step = step
    state.eval_results.append((step, {'validation/accuracy': 0.5}))
    save_checkpoint(
        PYTORCH,
        folder,
        state,
        RunnerState(rng=global_rng.get_state(PYTORCH), **runner_state),
        keep_older=keep_older,
    )
    return state


def warnings_of(monkeypatch):
    lines = []
    monkeypatch.setattr(
        logging, 'warning', lambda text, *values: lines.append(text % values)
    )
    return lines


def test_content_comes_back(tmp_path):
    saved = save(tmp_path, 5, batches_drawn=8, rows=(3, 2), is_final=True)
    state = new_state()
    runner_state = restore_checkpoint(PYTORCH, tmp_path, state)
    assert (runner_state.batches_drawn, runner_state.rows) == (8, (3, 2))
    assert runner_state.is_final
    assert torch.equal(state.model_params.weight, saved.model_params.weight)
    restored = state.optimizer_state['optimizer'].state_dict()['state']
    expected = saved.optimizer_state['optimizer'].state_dict()['state']
    assert torch.equal(restored[0]['momentum_buffer'], expected[0]['momentum_buffer'])
    assert torch.equal(state.model_state['mean'], torch.ones(2))
    assert state.eval_results == [(5, {'validation/accuracy': 0.5})]
    assert (state.global_step, state.preemption_count) == (5, 1)


def test_keys_are_those_of_algoperf_and_one_more(tmp_path):
    save(tmp_path, 1)
    content = torch.load(tmp_path / 'checkpoint_1', weights_only=True)
    assert sorted(content) == [
        'eval_results',
        'global_step',
        'model_params',
        'model_state',
        'optimizer_state',
        'preemption_count',
        'runner_state',
        'train_state',
    ]


def test_newest_counts_by_number_not_by_name(tmp_path):
    for step in (9, 10, 2):
        save(tmp_path, step)
    state = new_state()
    restore_checkpoint(PYTORCH, tmp_path, state)
    assert state.global_step == 10


def test_older_ones_can_be_dropped(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, keep_older=False)
    assert [path.name for path in tmp_path.iterdir()] == ['checkpoint_2']


def test_no_checkpoint_leaves_the_state(tmp_path):
    state = new_state()
    assert restore_checkpoint(PYTORCH, tmp_path, state) is None
    assert (state.global_step, state.preemption_count) == (0, 0)


@pytest.mark.parametrize('kind', KINDS)
def test_damaged_newest_falls_back_with_a_warning(tmp_path, monkeypatch, kind):
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(tmp_path / 'checkpoint_2', kind, torch.tensor(1.9).numpy().tobytes())
    lines = warnings_of(monkeypatch)
    state = new_state()
    assert restore_checkpoint(PYTORCH, tmp_path, state) is not None
    assert state.global_step == 1
    assert len(lines) == 1
    assert 'checkpoint_2 is damaged' in lines[0]


def test_all_damaged_is_an_error_that_names_the_files(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
        (tmp_path / f'checkpoint_{step}').write_bytes(b'damaged')
    state = new_state()
    message = r'checkpoint_2 \(.*\), checkpoint_1 \(.*--overwrite .*afresh'
    with pytest.raises(RunnerError, match=message):
        restore_checkpoint(PYTORCH, tmp_path, state)
    assert (state.global_step, state.preemption_count) == (0, 0)


def test_a_process_that_ends_while_writing_leaves_the_older_one(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def end_here(content, file):
        file.write(b'half of it')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', end_here)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    assert not (tmp_path / 'checkpoint_2').exists()
    state = new_state()
    restore_checkpoint(PYTORCH, tmp_path, state)
    assert state.global_step == 1
    save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'checkpoint_1',
        'checkpoint_2',
    ]


def test_changed_optimizer_state_is_an_error(tmp_path):
    save(tmp_path, 1)
    state = new_state()
    state.optimizer_state['factors'] = torch.nn.Linear(1, 1)
    with pytest.raises(RunnerError, match=r"\['optimizer'\].*\['factors', 'opt"):
        restore_checkpoint(PYTORCH, tmp_path, state)


def test_state_that_cannot_be_saved_is_named(monkeypatch):
    lines = warnings_of(monkeypatch)
    PYTORCH.check_optimizer_state({'good': torch.nn.Linear(1, 1), 'bad': 3})
    assert len(lines) == 1
    assert "optimizer_state['bad'] (int)" in lines[0]


def test_an_optimizer_state_of_another_form_is_refused():
    with pytest.raises(RunnerError, match='must return a dictionary in PyTorch, got t'):
        PYTORCH.check_optimizer_state(({}, None))


def test_json_has_null_for_what_json_cannot_say(tmp_path):
    path = tmp_path / 'file.json'
    atomic_files.write_json(path, {'a': float('nan'), 'b': [float('inf'), 1.5]})
    assert atomic_files.read_json(path) == {'a': None, 'b': [None, 1.5]}
