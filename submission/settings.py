"""Hyperparameters of the submission, checked, and its batch sizes.

A run gets its hyperparameters from AlgoPerf as a named tuple (external tuning)
or not at all (self-tuning). Both become one frozen `Settings`; a mistake in a
search space ends the run before its first step with an error that names the key,
the value and what is allowed.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self

Approximation = Literal['none', 'expand', 'reduce']
FisherType = Literal['empirical', 'monte_carlo']
FirstOrderRule = Literal['momentum', 'grafted', 'nadamw', 'spectral']
ReduceNormalisation = Literal['mean_inputs', 'sum_inputs']

# AlgoPerf's NAdamW baseline cannot run without these: a search space that lacks
# one has most likely misspelt it.
REQUIRED_KEYS = (
    'learning_rate',
    'one_minus_beta1',
    'beta2',
    'weight_decay',
    'warmup_factor',
)


@dataclasses.dataclass(frozen=True)
class _Interval:
    """Numbers from `low` to `high`; `open_*` leaves that end out."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        left = '(' if self.open_low else '['
        right = ')' if self.open_high else ']'
        return f'a number in {left}{self.low:g}, {self.high:g}{right}'


_POSITIVE = _Interval(0.0, math.inf, open_low=True, open_high=True)
_NON_NEGATIVE = _Interval(0.0, math.inf, open_high=True)
_FRACTION = _Interval(0.0, 1.0, open_high=True)
_COUNT = _Interval(1, math.inf, open_high=True)

_ALLOWED = {
    'learning_rate': _POSITIVE,
    'one_minus_beta1': _Interval(0.0, 1.0, open_low=True),
    'beta2': _FRACTION,
    'weight_decay': _NON_NEGATIVE,
    'warmup_factor': _FRACTION,
    'step_hint_factor': _POSITIVE,
    'weight_decay_exponent': _NON_NEGATIVE,
    'fan_in_exponent': _NON_NEGATIVE,
    'averaging_power': _NON_NEGATIVE,
    'dropout_rate': _FRACTION,
    'label_smoothing': _FRACTION,
    'grad_clip': _POSITIVE,
    'damping': _POSITIVE,
    'factor_decay': _FRACTION,
    'statistics_interval': _COUNT,
    'statistics_stride': _COUNT,
    'inverse_interval': _COUNT,
    'max_factor_dimension': _COUNT,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The hyperparameters of one trial.

    Attributes:
      learning_rate: Peak of the schedule (linear warm-up, cosine decay to zero).
      one_minus_beta1: 1 - beta1, beta1 being the decay of the first moment.
      beta2: Decay of NAdamW's second moment.
      weight_decay: Decoupled weight decay; each step multiplies the parameters
        by `1 - learning_rate * weight_decay`.
      warmup_factor: Share of the schedule spent warming up.
      step_hint_factor: Length of the schedule as a multiple of the workload's
        `step_hint`.
      weight_decay_exponent: How weight decay falls with the length of the schedule: by
        (1000 / steps) ** weight_decay_exponent for more than 1000.
      fan_in_exponent: How the learning rate of K-FAC's layers falls with the number of
        their inputs: by (64 / inputs) ** fan_in_exponent for more than 64.
      averaging_power: Evaluation gets the mean of the parameters of all steps, the
        weight of which grows about as the step's number to this power, which makes it
        a mean over the last 1 / (averaging_power + 1) of the run so far; None: the
        parameters as they are.
      dropout_rate: Dropout of the model, where it has any; None leaves the
        workload's own default.
      label_smoothing: Passed to the workload's loss.
      grad_clip: Largest norm of the whole gradient before preconditioning; None
        does not clip.
      approximation: Kronecker factors by K-FAC-expand, K-FAC-reduce, or none at
        all, which is AlgoPerf's NAdamW.
      reduce_normalisation: For K-FAC-reduce, whether a layer's inputs are averaged
        and its output gradients summed over positions, or inputs summed and
        gradients averaged. The same where every example has equally many
        positions; they differ on graphs.
      fisher_type: Output gradients from the training labels (empirical Fisher) or
        from labels sampled from the model's own prediction (Monte-Carlo estimate
        of the Fisher, which here equals the GGN).
      damping: Tikhonov damping, in units of the mean eigenvalue of the layer's
        curvature block, split over both factors.
      factor_decay: Decay of the moving averages of the Kronecker factors.
      statistics_interval: Steps between two updates of the Kronecker factors.
      statistics_stride: K-FAC-expand takes one in this many positions of each example
        into its factors, others in each update. Positions of one example are much
        alike, and factors are averaged over updates. K-FAC-reduce takes all, which
        costs it little.
      inverse_interval: Steps between two inversions of the Kronecker factors.
      first_order_rule: What is done with the preconditioned gradient: `momentum`
        follows it, `grafted` rescales each layer's momentum to the norm that
        NAdamW's update would have, `nadamw` gives it to NAdamW as the gradient;
        `spectral` takes steepest descent under the spectral norm in the metric of
        the curvature instead, as Muon does without curvature. Its updates have a
        fixed size in each entry but no direction that many entries share, so that
        for wide layers a `fan_in_exponent` of 0.5 is enough.
      max_factor_dimension: Layers with a Kronecker factor larger than this are
        trained by NAdamW.
    """

    learning_rate: float = 1e-2
    one_minus_beta1: float = 0.1
    beta2: float = 0.95
    weight_decay: float = 0.2
    warmup_factor: float = 0.05
    step_hint_factor: float = 0.5
    weight_decay_exponent: float = 0.0
    fan_in_exponent: float = 0.0
    averaging_power: float | None = None
    dropout_rate: float | None = 0.0
    label_smoothing: float = 0.0
    grad_clip: float | None = None
    approximation: Approximation = 'reduce'
    reduce_normalisation: ReduceNormalisation = 'mean_inputs'
    fisher_type: FisherType = 'monte_carlo'
    damping: float = 0.1
    factor_decay: float = 0.9
    statistics_interval: int = 10
    statistics_stride: int = 1
    inverse_interval: int = 10
    first_order_rule: FirstOrderRule = 'nadamw'
    max_factor_dimension: int = 8192

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(
                self, field.name, _checked(field.name, value, hints[field.name])
            )

    @classmethod
    def self_tuning(cls) -> Self:
        """Returns the settings of the self-tuning ruleset, the same for all workloads.

        The defaults were found on narrow models, whose learning rates are too high for
        wide ones, and on short schedules, whose weight decay is too much for long ones.
        They end their schedule after half of the step hint. A workload on which K-FAC
        is less than twice as fast would miss its target for good; with averaged
        parameters the whole step hint takes no longer to the target. On schedules
        of the step hint the spectral rule so takes fewer steps than K-FAC-reduce with
        NAdamW and the same schedule; on four times the step hint they are level.
        """
        return cls(
            learning_rate=0.014,
            step_hint_factor=1.0,
            weight_decay_exponent=0.75,
            fan_in_exponent=0.5,
            averaging_power=16.0,
            approximation='expand',
            first_order_rule='spectral',
        )

    @classmethod
    def from_hyperparameters(cls, hyperparameters: Any) -> Self:
        """Checks the hyperparameters of a trial.

        Args:
          hyperparameters: A named tuple or a mapping, or None under the
            self-tuning ruleset.

        Returns:
          The settings, missing optional keys at their defaults.

        Raises:
          ValueError: For an unknown or missing key, or a value out of range.
          TypeError: For a value of the wrong type.
        """
        if hyperparameters is None:
            return cls.self_tuning()
        given: dict[str, Any] = (
            dict(hyperparameters)
            if isinstance(hyperparameters, Mapping)
            else hyperparameters._asdict()
        )
        known = [field.name for field in dataclasses.fields(cls)]
        for key in given:
            if key not in known:
                raise ValueError(
                    f'Unknown hyperparameter {key!r} (value {given[key]!r}). '
                    f'Known: {", ".join(known)}.'
                )
        for key in REQUIRED_KEYS:
            if key not in given:
                raise ValueError(
                    f'Missing hyperparameter {key!r}. A search space has to give '
                    f'{", ".join(REQUIRED_KEYS)}; it gives {", ".join(given)}.'
                )
        return cls(**given)

    def is_statistics_step(self, step: int) -> bool:
        """Whether factors are updated in this step.

        The first two steps always are: a zero-initialised output layer hides all
        curvature below it in the first.
        """
        return step <= 1 or step % self.statistics_interval == 0

    def is_inverse_step(self, step: int) -> bool:
        """Whether inverses are updated in this step."""
        return step <= 1 or step % self.inverse_interval == 0

    @property
    def keeps_inverse_roots(self) -> bool:
        """Whether roots of the inverses are used, and kept, in place of these."""
        return self.first_order_rule == 'spectral'

    @property
    def position_stride(self) -> int:
        """One in this many positions is taken into the factors."""
        return self.statistics_stride if self.approximation == 'expand' else 1

    def model_arguments(self) -> dict[str, float]:
        """Returns what a workload's `model_fn` is to be told besides its contract.

        Where no dropout rate is set, the workload's own default stays in place.
        """
        return {} if self.dropout_rate is None else {'dropout_rate': self.dropout_rate}


def _checked(key: str, value: Any, hint: Any) -> Any:
    """Returns the value in its declared type, or raises naming the key."""
    options = typing.get_args(hint)
    if options and all(isinstance(option, str) for option in options):
        if value not in options:
            raise ValueError(
                f'Hyperparameter {key!r} is {value!r}; allowed: {", ".join(options)}.'
            )
        return value
    if value is None:
        if type(None) in options:
            return None
        raise TypeError(f'Hyperparameter {key!r} is None; allowed: {_ALLOWED[key]}.')
    # bool is an int to Python, but `true` in a search space is a mistake.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f'Hyperparameter {key!r} is {value!r} of type {type(value).__name__}; '
            f'allowed: {_ALLOWED[key]}.'
        )
    if hint is int:
        # JSON written by other programs may hold 10.0 for 10.
        if not math.isfinite(value) or value != int(value):
            raise TypeError(f'Hyperparameter {key!r} is {value!r}; it has to be whole.')
        value = int(value)
    else:
        value = float(value)
    if math.isnan(value) or value not in _ALLOWED[key]:
        raise ValueError(
            f'Hyperparameter {key!r} is {value!r}; allowed: {_ALLOWED[key]}.'
        )
    return value


def validate_hyperparameters(hyperparameters: Any) -> None:
    """Raises an error if no trial can be trained with these hyperparameters.

    The built-in runner asks this of all trials before the first one starts.

    Args:
      hyperparameters: As for `Settings.from_hyperparameters`.

    Raises:
      ValueError: For an unknown or missing key, or a value out of range.
      TypeError: For a value of the wrong type.
    """
    Settings.from_hyperparameters(hyperparameters)


# The rules let a submission choose its batch size, and nothing else, by workload.
_BATCH_SIZES = {
    'criteo1tb': 262_144,
    'fastmri': 32,
    'finewebedu_lm': 64,
    'imagenet_resnet': 1024,
    'imagenet_vit': 1024,
    'imagenet_vit_fashion_mnist': 128,
    'librispeech_conformer': 256,
    'librispeech_deepspeech': 256,
    'ogbg': 512,
    'ogbg_chembl': 128,
    'wmt': 128,
}


def get_batch_size(workload_name: str) -> int:
    """Returns the global batch size of a workload.

    Raises:
      ValueError: For a workload that is not listed. Runners answer it by asking
        again with the name of the base workload.
    """
    try:
        return _BATCH_SIZES[workload_name]
    except KeyError:
        raise ValueError(
            f'No batch size for workload {workload_name!r}; known: '
            f'{", ".join(_BATCH_SIZES)}.'
        ) from None
