import pathlib
import types

import pytest

from experiments.time_to_target import choose_rates
from experiments.time_to_target.candidates import Candidates
from experiments.time_to_target.methods import METHODS, RATES, RESULTS


def test_the_point_with_the_fewest_steps_over_all_seeds_is_taken():
    steps = {
        ('gnn', 0): {0: 10, 1: 20, 2: 20},
        ('gnn', 1): {0: 90, 1: 20, 2: 30},
        # Point 1 never gets there, which counts with the step hint.
        ('gnn', 2): {0: 90, 2: 30},
    }
    points = [{'point': number} for number in range(3)]
    best = choose_rates.best_point(Candidates(points, steps, steps, {'gnn': 100}))
    assert best == {'point': 2}


def test_all_learning_rates_are_multiplied_and_nothing_else():
    point = {'learning_rate': 0.8, 'adamw_learning_rate': 0.16, 'weight_decay': 0.1}
    found = choose_rates.at_rates(point)
    assert sorted(p['learning_rate'] for p in found) == pytest.approx(
        [0.05, 0.1, 0.2, 0.4, 0.8]
    )
    for each in found:
        assert each['adamw_learning_rate'] == pytest.approx(each['learning_rate'] / 5)
        assert each['weight_decay'] == 0.1


def start(monkeypatch, results, output):
    given = types.SimpleNamespace(
        workloads=['ogbg_chembl', 'imagenet_vit_fashion_mnist'],
        results_dir=str(results),
        output_dir=str(output),
    )
    monkeypatch.setattr(choose_rates, 'flags', types.SimpleNamespace(FLAGS=given))
    choose_rates.main()


# Wide models were trained at the point that was SOAP's fastest before it waited for
# gradients other than zero, and have not been trained at another since.
CHOSEN_BEFORE = {pathlib.Path('imagenet_vit_fashion_mnist', 'soap.json')}


def test_the_points_that_are_there_are_those_chosen(tmp_path, monkeypatch):
    start(monkeypatch, RESULTS, tmp_path)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob('*.json')}
    assert written == {
        pathlib.Path(workload, f'{name}.json')
        for workload in ('ogbg_chembl', 'imagenet_vit_fashion_mnist')
        for name in METHODS
    }
    assert written == {path.relative_to(RATES) for path in RATES.rglob('*.json')}
    for path in written - CHOSEN_BEFORE:
        assert (tmp_path / path).read_text() == (RATES / path).read_text()


def test_records_are_asked_for(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r'ogbg_chembl_pytorch has no .*nadamw makes'):
        start(monkeypatch, tmp_path, tmp_path)
