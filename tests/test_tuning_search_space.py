import json
import pathlib

from submission.settings import Settings
from workloads_overrides.runner.search_space import load_search_space

PATH = pathlib.Path(__file__).parent.parent / 'tuning_search_space.json'


def test_at_most_five_points_cover_both_approximations():
    """Five trials is what AlgoPerf's external ruleset gives."""
    points = load_search_space(PATH, num_trials=100)
    assert 1 <= len(points) <= 5
    settings = [Settings.from_hyperparameters(point) for point in points]
    assert {s.approximation for s in settings} == {'expand', 'reduce'}
    assert len(set(settings)) == len(settings)


def test_self_tuning_uses_the_first_point():
    first = json.loads(PATH.read_text())[0]
    assert Settings.from_hyperparameters(first) == Settings.from_hyperparameters(None)


def test_points_suit_wide_models_and_long_schedules():
    """They were found on narrower models and shorter schedules than AlgoPerf's."""
    for point in json.loads(PATH.read_text()):
        settings = Settings.from_hyperparameters(point)
        assert settings.fan_in_exponent > 0
        assert settings.weight_decay_exponent > 0
