"""Smaller steps for layers with more inputs, the same in both frameworks.

NAdamW moves every entry of a weight by about the learning rate, however many there
are. What that does to a layer's output grows with the number of its inputs, so a
learning rate that suits a narrow model is too high for a wide one. A rate proportional
to 1 / inputs carries over (Yang et al., 2022, arXiv 2203.03466, Table 3).
"""

from collections.abc import Iterable
from typing import Protocol

# The width of the small models that learning rates were tuned on.
REFERENCE_FAN_IN = 64


class Layer(Protocol):
    """What is asked of a layer, of either framework."""

    parameter_names: list[str]

    @property
    def fan_in(self) -> int:
        """Number of inputs of each output, the bias not counted."""


def learning_rate_scales(layers: Iterable[Layer], exponent: float) -> dict[str, float]:
    """Returns what learning rates are multiplied with, where not by 1.

    Args:
      layers: The layers.
      exponent: As for `learning_rate_scale`.

    Returns:
      Parameter name to a number below 1.
    """
    scales = {
        name: learning_rate_scale(layer.fan_in, exponent)
        for layer in layers
        for name in layer.parameter_names
    }
    return {name: scale for name, scale in scales.items() if scale < 1.0}


def learning_rate_scale(fan_in: int, exponent: float) -> float:
    """Returns what a layer's learning rate is multiplied with.

    Args:
      fan_in: Number of inputs of each output, the bias not counted.
      exponent: 0 for one rate for all, 1 for one that is proportional to 1 / inputs
        from `REFERENCE_FAN_IN` inputs on.
    """
    return min((REFERENCE_FAN_IN / max(fan_in, 1)) ** exponent, 1.0)
