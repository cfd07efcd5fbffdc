import json

import pytest

from experiments.peers import __main__ as peers
from experiments.peers import ours, session, table
from experiments.step_time.results import Results
from experiments.step_time.variants import NADAMW

from .methods import tiny_task


def _fails(task):
    raise AttributeError('the library is too old\nfor this')


@pytest.mark.parametrize('framework', ['pytorch', 'jax'])
def test_ours_train_and_a_failure_is_told(framework):
    task = tiny_task(framework)
    makers = {**ours.methods('empirical'), 'peer': _fails}
    assert list(makers) == [
        NADAMW,
        'ours, reduce, empirical',
        'ours, expand, empirical',
        'peer',
    ]
    # One is enough, as each compiles in JAX.
    del makers['ours, expand, empirical']
    found = session.measure(task, makers, rounds=1)['methods']
    text = table.of_peer(found)
    assert 'does not run: AttributeError: the library is too old |' in text
    assert 'TRAIN' not in text
    kfac = found['ours, reduce, empirical']
    assert kfac['losses'][1] < kfac['losses'][0] == found[NADAMW]['losses'][0]
    assert kfac['state_bytes'] > found[NADAMW]['state_bytes'] > 0
    assert {'statistics', 'plain', 'every 10', 'update'} == set(kfac['summary'])
    assert (kfac['compilation_seconds'] > 0) == (framework == 'jax')


@pytest.mark.parametrize('after', [1.0, 1.5, float('nan')])
def test_a_loss_that_does_not_fall_is_told(after):
    spread = {'milliseconds': 1.0, 'milliseconds_quartiles': [1.0, 1.0]}
    found = {
        'summary': {'every 10': {**spread, 'ratio': 1.0, 'ratio_quartiles': [1, 1]}},
        'losses': [1.0, after],
        'state_bytes': 2048,
        'note': 'a note',
    }
    *_, row = table.of_peer({'peer': found}).splitlines()
    assert row == (
        '| peer | - | - | - | 1.0 (1.0 to 1.0) | 1.00 (1.00 to 1.00) | 2 | '
        f'1.000 to {after:.3f} | DOES NOT TRAIN; a note |'
    )


def test_factors_without_a_step_have_their_own_time():
    spread = {
        'milliseconds': 1.0,
        'milliseconds_quartiles': [0.9, 1.1],
        'ratio': 1.0,
        'ratio_quartiles': [1, 1],
    }
    found = {
        'summary': {'factors': spread, 'update': {**spread, 'milliseconds': 1.1}},
        'losses': [1.0, 1.0],
        'state_bytes': 2048,
        'note': 'a note',
    }
    *_, row = table.of_peer({'peer': found}).splitlines()
    assert row == (
        '| peer | - | 1.1 (0.9 to 1.1) | - | - | - | 2 | - | '
        'a note; without inverses 1.0 (0.9 to 1.1) |'
    )


def test_libraries_that_are_missing_or_broken_are_told_and_others_go_on(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / 'broken_peer.py').write_text('raise ImportError("no such name")\n')
    (tmp_path / 'good_peer.py').write_text(
        'from experiments.peers import ours\n'
        'def fisher_type(task):\n    return "empirical"\n'
        'def methods(task):\n    return {}\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        peers,
        'PEERS',
        (
            peers.Peer('no-such-distribution', 'pytorch', 'nothing'),
            peers.Peer('numpy', 'pytorch', 'broken_peer'),
            peers.Peer('torch', 'pytorch', 'good_peer'),
            peers.Peer('jax', 'jax', 'nothing'),
        ),
    )
    path = tmp_path / 'results.json'
    peers.measure_all(tiny_task('pytorch'), 1, Results.open(path, {}))
    output = capsys.readouterr().out
    assert "no-such-distribution: not installed: pip install -e '.[peers]'" in output
    assert 'does not run: ImportError: no such name' in output
    parts = json.loads(path.read_text())['parts']
    assert list(parts) == ['numpy', 'torch']
    assert NADAMW in parts['torch']['methods']
