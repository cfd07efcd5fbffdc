import json

import pytest

from experiments.rivals.settings import RivalSettings
from experiments.time_to_target import methods
from experiments.time_to_target.__main__ import chosen_methods
from experiments.time_to_target.choose_rates import SHARES
from submission.settings import Settings
from workloads_overrides.runner.search_space import as_hyperparameters

NARROW, WIDE, HELD_OUT = (
    'ogbg_chembl',
    'ogbg_chembl_full',
    'imagenet_vit_fashion_mnist_glu',
)


@pytest.mark.parametrize(
    ('workload', 'name'),
    [(w, name) for w in (NARROW, WIDE) for name in methods.all_methods(w)],
)
def test_every_method_has_five_different_valid_points(workload, name):
    method = methods.all_methods(workload)[name]
    kind = RivalSettings if method.submission == 'rivals' else Settings
    points = [
        kind.from_hyperparameters(as_hyperparameters(dict(point)))
        for point in method.points
    ]
    assert len(set(points)) == len(points)
    # Those of an averaged method may have differed in the length of the schedule alone.
    assert len(points) == methods.TRIALS or name in methods.AVERAGED
    if kind is RivalSettings:
        assert {point.optimizer for point in points} == {name}


def test_both_approximations_are_tried_at_the_same_points():
    expand, reduce = (methods.METHODS[f'kfac_{a}'].points for a in ('expand', 'reduce'))
    assert [{**point, 'approximation': 'reduce'} for point in expand] == list(reduce)
    expand, reduce = (methods.WIDER[f'kfac_{a}'].points for a in ('expand', 'reduce'))
    assert [{**point, 'approximation': 'reduce'} for point in expand] == list(reduce)


def test_every_step_changes_the_intervals_alone():
    method = methods.EVERY_STEP['kfac_expand_every_step']
    for point, other in zip(
        method.points, methods.METHODS['kfac_expand'].points, strict=True
    ):
        assert point['statistics_interval'] == point['inverse_interval'] == 1
        assert {**point, 'statistics_interval': 10, 'inverse_interval': 10} == other


def test_fewer_positions_are_the_only_change():
    (method,) = methods.FEWER_POSITIONS.values()
    points = [dict(point) for point in method.points]
    assert {point.pop('statistics_stride') for point in points} == {4}
    assert points == list(methods.METHODS['kfac_expand'].points)


def test_spectral_methods_differ_in_the_approximation_alone():
    expand, reduce = (
        methods.SPECTRAL[f'kfac_{a}_spectral'].points for a in ('expand', 'reduce')
    )
    assert [{**point, 'approximation': 'reduce'} for point in expand] == list(reduce)
    assert {point['first_order_rule'] for point in expand} == {'spectral'}


def test_averaged_methods_have_no_schedule_of_their_own():
    for method in (*methods.AVERAGED.values(), *methods.SPECTRAL_AVERAGED.values()):
        schedules = {
            (point['step_hint_factor'], point['averaging_power'])
            for point in method.points
        }
        assert schedules == {(1.0, 16.0)}
    assert len(methods.AVERAGED['kfac_reduce_averaged'].points) == methods.TRIALS - 1


def test_the_wider_search_gives_rivals_as_many_points_as_kfac():
    fewest = len(methods.WIDER['kfac_reduce'].points)
    for name, method in methods.WIDER.items():
        five = list(methods.METHODS[name].points)
        assert list(method.points[: methods.TRIALS]) == five
        kind = RivalSettings if method.submission == 'rivals' else Settings
        points = {
            kind.from_hyperparameters(as_hyperparameters(dict(point)))
            for point in method.points
        }
        assert len(points) == len(method.points) >= fewest == methods.TRIALS + 8


def test_unequal_budgets_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, 'SEARCH_SPACES', tmp_path)
    (tmp_path / 'four.json').write_text(json.dumps([{}] * 4))
    with pytest.raises(ValueError, match=r'four.json has 4 points; every method has 5'):
        _ = methods.Method('Four', 'kfac', 'four').points


def test_rivals_are_in_pytorch_only():
    assert set(chosen_methods([], NARROW, 'pytorch')) == set(methods.METHODS)
    assert 'soap' not in chosen_methods([], NARROW, 'jax')
    with pytest.raises(ValueError, match="No method 'soap' in jax; there are nadamw"):
        chosen_methods(['soap'], NARROW, 'jax')


def test_wide_models_are_trained_at_five_rates_of_one_point_and_by_the_submission():
    compared = methods.main_methods(WIDE)
    assert set(compared) == {*methods.METHODS, 'kfac_submission'}
    for name, method in methods.METHODS.items():
        quarter, *_, whole = compared[name].points
        assert whole in method.points
        shares = [
            point['learning_rate'] / whole['learning_rate']
            for point in compared[name].points
        ]
        assert shares == pytest.approx(SHARES)
        others = {'learning_rate', 'adamw_learning_rate'}
        for point in compared[name].points:
            assert {k: v for k, v in point.items() if k not in others} == {
                k: v for k, v in whole.items() if k not in others
            }
        if name == 'muon':
            assert quarter['adamw_learning_rate'] == whole['adamw_learning_rate'] / 4


def test_held_out_workloads_have_the_points_that_others_were_chosen_for():
    compared = methods.main_methods(HELD_OUT)
    assert compared == {**methods.METHODS, **methods.SPECTRAL, **methods.SUBMITTED}
    assert methods.all_methods(HELD_OUT) == compared
