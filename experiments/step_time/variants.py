"""What is measured: NAdamW, and K-FAC by approximation and Fisher type."""

import itertools
from typing import Any, get_args

from submission.settings import FisherType

# Steps between two statistics steps that are trained as they come; other intervals
# follow from the times of the two kinds of step.
INTERVAL = 10
NADAMW = 'nadamw'
APPROXIMATIONS = ('reduce', 'expand')
FISHER_TYPES: tuple[FisherType, ...] = get_args(FisherType)

_POINT = {
    'learning_rate': 1e-3,
    'one_minus_beta1': 0.1,
    'beta2': 0.99,
    'weight_decay': 0.01,
    'warmup_factor': 0.05,
    'statistics_interval': INTERVAL,
}


def variant_name(approximation: str, fisher_type: str) -> str:
    """Returns the name under which a K-FAC variant is reported."""
    return f'{approximation}, {fisher_type}'


def points(inverse_interval: int = INTERVAL) -> dict[str, dict[str, Any]]:
    """Returns the hyperparameters of all variants by name, NAdamW first.

    Args:
      inverse_interval: Steps between two updates of the inverses.
    """
    common = {**_POINT, 'inverse_interval': inverse_interval}
    kfac = {
        variant_name(approximation, fisher_type): {
            **common,
            'approximation': approximation,
            'fisher_type': fisher_type,
        }
        for approximation, fisher_type in itertools.product(
            APPROXIMATIONS, FISHER_TYPES
        )
    }
    return {NADAMW: {**common, 'approximation': 'none'}, **kfac}
