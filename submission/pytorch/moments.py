"""Moving averages of gradients, and NAdamW's update from them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_EPSILON = 1e-8


class Moments:
    """Nesterov momentum and, where asked for, second moments of gradients.

    With second moments this is NAdamW as in Table 1 of Choi et al. (2019), the rule
    of AlgoPerf's baseline; without, Nesterov momentum with bias correction.

    Whether a step counts is known to the device alone, and so is the number of
    steps: asking would make the host wait for the device in every step.

    The moments of all parameters lie one behind the other in a vector, so a step takes
    a handful of operations, however many parameters there are.
    """

    def __init__(
        self, names: Sequence[str], device: torch.device, *, second: bool
    ) -> None:
        """Prepares empty moments.

        Args:
          names: Names of the parameters covered.
          device: Device of the parameters.
          second: Whether updates are divided by root second moments.
        """
        self.names = list(names)
        self._second = second
        # By parameter name; parts of the vectors below.
        self._first: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        # Names of the parameters of a kind to the vectors of their moments.
        self._vectors: dict[tuple[str, ...], list[Tensor]] = {}
        # Not an integer, whose power would be of single precision.
        self._steps = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def updates(
        self,
        gradients: Mapping[str, Tensor],
        beta1: float,
        beta2: float,
        counts: Tensor,
    ) -> dict[str, Tensor]:
        """Takes in one step's gradients and returns the update directions.

        Args:
          gradients: Gradients by parameter name; those of parameters that are not
            covered are ignored, and covered ones without a gradient stand still.
          beta1: Decay of the first moment.
          beta2: Decay of the second moment.
          counts: Whether this is a step, a scalar of booleans. If not, moments stay
            as they are and the directions are zero, whatever the gradients.
        """
        self._steps += counts
        directions: dict[str, Tensor] = {}
        for names, (first, *squares) in self._vectors_for(gradients).items():
            dtype = first.dtype
            now = torch.empty_like(first)
            torch._foreach_copy_(
                list(_parts(now, names, gradients).values()),
                [gradients[name] for name in names],
            )
            # A moment does not move towards itself, to the last bit.
            torch.where(counts, now, first, out=now)
            first.lerp_(now, 1.0 - beta1)
            # Nesterov: the moment as the next step will see it.
            direction = torch.lerp(first, now, 1.0 - beta1)
            # Dividing by infinity is the cheapest way to a direction of zero.
            correction = torch.where(counts, 1.0 - beta1**self._steps, math.inf)
            direction.div_(correction.to(dtype))
            for second in squares:
                decay = torch.where(counts, torch.full_like(self._steps, beta2), 1.0)
                second.mul_(decay.to(dtype))
                now.mul_(counts)
                second.addcmul_(now, now, value=1.0 - beta2)
                root = second.sqrt()
                correction = torch.where(counts, 1.0 - beta2**self._steps, 1.0).sqrt()
                root.div_(correction.to(dtype)).add_(_EPSILON)
                direction.div_(root)
            directions.update(_parts(direction, names, gradients))
        return directions

    def _vectors_for(
        self, gradients: Mapping[str, Tensor]
    ) -> dict[tuple[str, ...], list[Tensor]]:
        """Returns the vectors of the moments of what has a gradient, by its names."""
        kinds: dict[tuple[torch.dtype, torch.device], list[str]] = {}
        for name in self.names:
            if name in gradients:
                kind = gradients[name].dtype, gradients[name].device
                kinds.setdefault(kind, []).append(name)
        keys = [tuple(names) for names in kinds.values()]
        # Which parameters have a gradient hardly ever changes.
        if keys != list(self._vectors):
            all_moments = [self._first, *([self._squares] if self._second else [])]
            self._vectors = {
                names: [_joined(moments, names, gradients) for moments in all_moments]
                for names in keys
            }
        return self._vectors

    def state_dict(self) -> dict[str, Any]:
        """Returns the moments by parameter name, and the number of steps."""
        return {
            'first': dict(self._first),
            'squares': dict(self._squares),
            'steps': self._steps,
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Any], devices: Mapping[str, torch.device]
    ) -> None:
        """Restores the moments on the given devices."""
        for key in ('first', 'squares'):
            moments = {
                name: value.to(devices[name], copy=True)
                for name, value in state_dict[key].items()
            }
            setattr(self, f'_{key}', moments)
        self._vectors = {}
        self._steps.fill_(state_dict['steps'])


def _parts(
    vector: Tensor, names: Sequence[str], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns the parts of a vector by name, in the shapes of other tensors."""
    shapes = [like[name].shape for name in names]
    parts = vector.split([shape.numel() for shape in shapes])
    return {
        name: part.view(shape)
        for name, part, shape in zip(names, parts, shapes, strict=True)
    }


def _joined(
    moments: dict[str, Tensor], names: Sequence[str], like: Mapping[str, Tensor]
) -> Tensor:
    """Joins moments, zeros where there are none; they become parts of the vector."""
    flat = [
        moments[name].reshape(-1) if name in moments else like[name].new_zeros(size)
        for name, size in ((name, like[name].numel()) for name in names)
    ]
    vector = torch.cat(flat)
    moments.update(_parts(vector, names, like))
    return vector
