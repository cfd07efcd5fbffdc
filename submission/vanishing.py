"""Kronecker factors that vanish, since what they are computed from cancels."""

from absl import logging

# Updates after which a factor that has always vanished is not one that begins late.
TELLING_UPDATES = 10

# Gradients of which less than this share is left after summing over positions have
# cancelled, whatever the precision: what bfloat16 rounds off is smaller.
_MOST_ROUNDING = 0.05


def rounding_share(eps: float, positions: float) -> float:
    """Returns the share of gradients' norm that may be left of those that cancel.

    A normalisation takes the mean over R positions off the gradients. Added up one by
    one, the mean is wrong by up to R eps of their size, and the sum of what is left by
    R times that; the norm of the gradients is sqrt(R) times their size. So the share
    grows with R sqrt(R): at R = 320 x 320 up to 4e4 eps was measured in single
    precision and 1e5 eps in double, at 64 x 64 up to 3e2 eps.

    Args:
      eps: Machine epsilon of the precision that the gradients came in.
      positions: Number R of positions that are summed for an example.
    """
    return min(eps * max(100.0, positions**1.5 / 100), _MOST_ROUNDING)


def log_vanished(side: str, layer_name: str) -> None:
    """Says that a factor has had no statistic that did not vanish.

    Args:
      side: A (inputs) or B (output gradients).
      layer_name: The layer.
    """
    logging.warning(
        'K-FAC: factor %s of layer %s has vanished in all updates so far: what it is '
        'computed from cancels. That side is not preconditioned until it does not.',
        side,
        layer_name,
    )
