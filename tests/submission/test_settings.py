"""Mistakes in a search space are named before the first step."""

import dataclasses
import importlib
import math

import pytest

from submission.settings import REQUIRED_KEYS, Settings, get_batch_size

from .training import REQUIRED, hyperparameters


def _settings(**changes):
    return Settings.from_hyperparameters({**REQUIRED, **changes})


def test_no_hyperparameters_mean_the_self_tuning_ruleset():
    found = Settings.from_hyperparameters(None)
    expected = Settings(
        learning_rate=0.014,
        step_hint_factor=1.0,
        weight_decay_exponent=0.75,
        fan_in_exponent=0.5,
        averaging_power=16,
        approximation='expand',
        first_order_rule='spectral',
    )
    assert found == Settings.self_tuning() == expected


def test_named_tuple_and_mapping():
    expected = dataclasses.replace(Settings(**REQUIRED), step_hint_factor=1.0)
    assert Settings.from_hyperparameters(hyperparameters()) == expected
    assert _settings(step_hint_factor=1.0) == expected


def test_unknown_key():
    with pytest.raises(ValueError, match=r"Unknown.*'learning_rte' \(value 0.5\)") as e:
        _settings(learning_rte=0.5)
    assert 'learning_rate' in str(e.value)


@pytest.mark.parametrize('key', REQUIRED_KEYS)
def test_missing_key(key):
    given = {name: value for name, value in REQUIRED.items() if name != key}
    with pytest.raises(ValueError, match=f"Missing.*'{key}'"):
        Settings.from_hyperparameters(given)


def _field(name):
    return next(f for f in dataclasses.fields(Settings) if f.name == name)


LIMITS = {
    'learning_rate': ([1e-9, 10], [0, -1e-3, math.inf]),
    'one_minus_beta1': ([1e-6, 1], [0, 1.0001, -0.1]),
    'beta2': ([0, 0.999], [1, -0.1]),
    'weight_decay': ([0, 5], [-1e-9, math.inf]),
    'warmup_factor': ([0, 0.99], [1, -0.1]),
    'step_hint_factor': ([0.01, 3], [0, -1]),
    'weight_decay_exponent': ([0, 0.5, 1], [-0.1, math.inf]),
    'fan_in_exponent': ([0, 0.5, 1], [-0.1, math.inf]),
    'averaging_power': ([None, 0, 16], [-1, math.inf]),
    'dropout_rate': ([0, 0.5, None], [1, -0.1]),
    'label_smoothing': ([0, 0.1], [1, -0.1]),
    'grad_clip': ([1e-3, 10, None], [0, -1]),
    'damping': ([1e-12, 10], [0, -1]),
    'factor_decay': ([0, 0.99], [1, -0.1]),
    'statistics_interval': ([1, 1000], [0, -1]),
    'statistics_stride': ([1, 1000], [0, -1]),
    'inverse_interval': ([1, 1000], [0, -1]),
    'max_factor_dimension': ([1, 10**6], [0, -1]),
}
CHOICES = {
    'approximation': ('none', 'expand', 'reduce'),
    'reduce_normalisation': ('mean_inputs', 'sum_inputs'),
    'fisher_type': ('empirical', 'monte_carlo'),
    'first_order_rule': ('momentum', 'grafted', 'nadamw', 'spectral'),
}


def test_every_field_is_covered_here():
    names = {field.name for field in dataclasses.fields(Settings)}
    assert names == LIMITS.keys() | CHOICES.keys()


@pytest.mark.parametrize(
    ('key', 'value'), [(key, v) for key, (good, _) in LIMITS.items() for v in good]
)
def test_allowed_numbers(key, value):
    found = getattr(_settings(**{key: value}), key)
    assert found == value
    if value is not None:
        expected = int if _field(key).type in (int, 'int') else float
        assert type(found) is expected


@pytest.mark.parametrize(
    ('key', 'value'), [(key, v) for key, (_, bad) in LIMITS.items() for v in bad]
)
def test_numbers_out_of_range(key, value):
    with pytest.raises(ValueError, match='allowed: a number in') as error:
        _settings(**{key: value})
    message = str(error.value)
    assert repr(key) in message
    assert repr(type(getattr(Settings(), key) or 0.0)(value)) in message


@pytest.mark.parametrize('key', LIMITS)
@pytest.mark.parametrize('value', ['0.1', True, False, [0.1], {}, 1j])
def test_wrong_types(key, value):
    with pytest.raises(TypeError) as error:
        _settings(**{key: value})
    message = str(error.value)
    assert repr(key) in message
    assert repr(value) in message
    assert type(value).__name__ in message
    assert 'allowed: a number in' in message


@pytest.mark.parametrize('key', LIMITS)
def test_not_a_number(key):
    with pytest.raises((TypeError, ValueError), match=f"'{key}' is nan"):
        _settings(**{key: math.nan})


@pytest.mark.parametrize(
    'key', [key for key, (good, _) in LIMITS.items() if None not in good]
)
def test_none_where_a_number_is_needed(key):
    with pytest.raises(TypeError, match=f"'{key}' is None; allowed"):
        _settings(**{key: None})


class TestWholeNumbers:
    @pytest.mark.parametrize(
        'key', ['statistics_interval', 'statistics_stride', 'max_factor_dimension']
    )
    def test_written_with_a_point(self, key):
        found = getattr(_settings(**{key: 10.0}), key)
        assert found == 10
        assert type(found) is int

    @pytest.mark.parametrize('value', [10.5, math.inf, math.nan])
    def test_not_whole(self, value):
        with pytest.raises(TypeError, match=f"'inverse_interval' is {value!r}.*whole"):
            _settings(inverse_interval=value)


@pytest.mark.parametrize('key', CHOICES)
class TestChoices:
    def test_allowed(self, key):
        for choice in CHOICES[key]:
            assert getattr(_settings(**{key: choice}), key) == choice

    @pytest.mark.parametrize('value', ['other', 'Expand', '', None, 1, True, ['none']])
    def test_anything_else(self, key, value):
        with pytest.raises(ValueError, match=f"'{key}'") as error:
            _settings(**{key: value})
        assert repr(value) in str(error.value)
        assert all(choice in str(error.value) for choice in CHOICES[key])


def test_settings_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().damping = 1.0


class TestBatchSize:
    @pytest.mark.parametrize(
        'name',
        [
            'criteo1tb',
            'fastmri',
            'finewebedu_lm',
            'imagenet_resnet',
            'imagenet_vit',
            'imagenet_vit_fashion_mnist',
            'librispeech_conformer',
            'librispeech_deepspeech',
            'ogbg',
            'ogbg_chembl',
            'wmt',
        ],
    )
    def test_every_base_workload_has_one(self, name):
        assert get_batch_size(name) >= 1

    def test_runners_retry_after_a_value_error(self):
        with pytest.raises(ValueError, match="'ogbg_gelu'"):
            get_batch_size('ogbg_gelu')


class TestIntervals:
    def test_statistics(self):
        settings = Settings(statistics_interval=4, inverse_interval=100)
        steps = [s for s in range(14) if settings.is_statistics_step(s)]
        assert steps == [0, 1, 4, 8, 12]

    def test_inverses(self):
        settings = Settings(statistics_interval=1, inverse_interval=5)
        steps = [s for s in range(14) if settings.is_inverse_step(s)]
        assert steps == [0, 1, 5, 10]


@pytest.mark.parametrize('submission', ['pytorch_submission', 'jax_submission'])
def test_submissions_can_be_asked_about_a_point(submission):
    module = importlib.import_module(f'submission.{submission}')
    module.validate_hyperparameters(None)
    with pytest.raises(ValueError, match="Unknown hyperparameter 'dampng'"):
        module.validate_hyperparameters({'dampng': 0.1})
