"""Hyperparameters of a rival's trial, checked."""

import dataclasses
from typing import Any, Literal, Self, get_args

RivalName = Literal['nesterov', 'soap', 'shampoo', 'muon', 'schedule_free_adamw']
ShampooRoot = Literal[2, 4]
# What these hyperparameters may be; the others are numbers of at least 0.
_CHOICES = {'optimizer': get_args(RivalName), 'shampoo_root': get_args(ShampooRoot)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RivalSettings:
    """The hyperparameters of one trial.

    Attributes:
      optimizer: Which optimiser.
      learning_rate: Peak of the optimiser's schedule.
      one_minus_beta1: 1 - beta1, the decay of the momentum; for Muon of the momentum
        that is orthogonalised.
      beta2: Decay of second moments or, for Shampoo, of the statistics. Nesterov has
        none.
      weight_decay: Decoupled weight decay; for Nesterov an L2 penalty, as in
        AlgoPerf's rule.
      warmup_factor: Share of the schedule spent warming up.
      step_hint_factor: Length of the schedule as a multiple of the workload's
        `step_hint`; without a meaning for Schedule-Free but for its warm-up.
      adamw_learning_rate: Peak for what Muon does not apply to, which AdamW trains.
      shampoo_root: r in Shampoo's preconditioned gradient L**(-1/r) G R**(-1/r): 4 by
        its authors, 2 by Morwani et al. (arXiv 2406.17748).
      dropout_rate: Dropout of the model, where it has any.
      label_smoothing: Passed to the workload's loss.
    """

    optimizer: RivalName
    learning_rate: float
    one_minus_beta1: float
    weight_decay: float
    warmup_factor: float
    step_hint_factor: float
    beta2: float = 0.95
    adamw_learning_rate: float = 3e-3
    shampoo_root: ShampooRoot = 4
    dropout_rate: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if name in _CHOICES:
                if value not in _CHOICES[name]:
                    raise ValueError(
                        f'Hyperparameter {name!r} is {value!r}; allowed: '
                        f'{", ".join(map(str, _CHOICES[name]))}.'
                    )
            elif not (isinstance(value, int | float) and value >= 0):
                raise ValueError(
                    f'Hyperparameter {name!r} is {value!r}; it has to be a number of '
                    'at least 0.'
                )

    @classmethod
    def from_hyperparameters(cls, hyperparameters: Any) -> Self:
        """Checks the hyperparameters of a trial, a named tuple.

        Raises:
          ValueError: For a key that is missing or unknown, or a value out of range.
        """
        given = hyperparameters._asdict()
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f'Hyperparameters {given}: {error}.') from error
