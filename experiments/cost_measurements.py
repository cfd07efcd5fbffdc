"""Compares the cost model with times on this machine.

The machine's rates come from single operations at sizes of their own; the parts are
then timed at the sizes of the offline vision transformer, and nothing is fitted to
them. Times are processor seconds of one thread, which other programs on the machine
disturb least.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.cost_models import Model, vision_transformer
from experiments.cost_operations import FLOAT_BYTES, Device, Part
from experiments.cost_parts import StepCost
from submission.pytorch.first_order import FirstOrderOptimizer
from submission.settings import Settings
from workloads_overrides.imagenet_vit_fashion_mnist.pytorch_model import ViT
from workloads_overrides.imagenet_vit_fashion_mnist.workload import CPU_SIZE

BATCH_SIZE = 128
IMAGE_SIZE, CLASSES = 28, 10

# Sizes of the operations that give the rates: matrices in the range of the model's, and
# arrays that no cache holds, as a training step's activations are not.
_ROWS, _DIM = 4096, 96
_INVERSE_DIMS = 64, 160
_ENTRIES = 4_000_000

# Small operations are timed as they come in a step, many in a row.
_REPEATS = 50


def offline_model() -> Model:
    """Describes the offline vision transformer."""
    return vision_transformer(
        'imagenet_vit_fashion_mnist',
        BATCH_SIZE,
        tokens=(IMAGE_SIZE // CPU_SIZE.patch_size) ** 2,
        width=CPU_SIZE.width,
        depth=CPU_SIZE.depth,
        mlp_dim=CPU_SIZE.mlp_dim,
        heads=CPU_SIZE.num_heads,
        patch_inputs=CPU_SIZE.patch_size**2,
        classes=CLASSES,
    )


def _seconds(
    functions: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, float]:
    """Returns the median seconds of each function, all called in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):
        for name, function in functions.items():
            start = time.process_time()
            function()
            elapsed = time.process_time() - start
            # The first rounds warm up.
            if number >= 2:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def _probes() -> dict[str, Callable[[], Any]]:
    """Returns single operations, whose times give this machine's rates."""
    rows, matrix = torch.randn(_ROWS, _DIM), torch.randn(_DIM, _DIM)
    entries, others = torch.randn(_ENTRIES), torch.randn(_ENTRIES)

    def several(matrix: Tensor) -> list[Tensor]:
        # A step works on other matrices each time, which are not in the nearest cache.
        return [matrix.clone() for _ in range(_REPEATS)]

    small, matrices = several(torch.zeros(8, 8)), several(matrix)
    factors = [
        several(0.1 * torch.randn(d, d) + d * torch.eye(d)) for d in _INVERSE_DIMS
    ]

    def small_operations() -> None:
        for tensor in small:
            tensor + tensor
            tensor @ tensor
            tensor.mean()
            torch.cat([tensor, tensor])

    def square() -> None:
        for tensor in matrices:
            tensor @ tensor

    def inverse(dim_factors: Sequence[Tensor]) -> None:
        for factor in dim_factors:
            torch.cholesky_inverse(torch.linalg.cholesky(factor))

    return {
        'rows': lambda: rows @ matrix,
        'gram': lambda: rows.T @ rows,
        'square': square,
        'small inverse': lambda: inverse(factors[0]),
        'inverse': lambda: inverse(factors[1]),
        'exponential': entries.exp,
        'sum': lambda: entries + others,
        'small operations': small_operations,
        'list': lambda: torch._foreach_mul_(small, 1.0),
    }


def _device(seconds: Mapping[str, float]) -> Device:
    """Returns this machine's rates from the times of the probes."""
    kernel = seconds['small operations'] / (4 * _REPEATS)
    product = 2 * _ROWS * _DIM**2
    # Two sizes give the times of a column and of an operation.
    low, high = (
        seconds[name] / _REPEATS - 2 * kernel for name in ('small inverse', 'inverse')
    )
    small, large = _INVERSE_DIMS
    inverse_flop = (high / large - low / small) / (large**2 - small**2)
    return Device(
        'this CPU',
        flops={
            'rows': product / seconds['rows'],
            'gram': product / seconds['gram'],
            'square': 2 * _DIM**3 / (seconds['square'] / _REPEATS - kernel),
            'inverse': 1 / inverse_flop,
            'pointwise': _ENTRIES / seconds['exponential'],
        },
        bandwidth=3 * FLOAT_BYTES * _ENTRIES / seconds['sum'],
        network=float('inf'),
        kernel_seconds=kernel,
        column_seconds=low / small - inverse_flop * small**2,
        list_seconds=seconds['list'] / _REPEATS,
    )


class _Passes:
    """The model's passes over one batch, with the layers' inputs and outputs kept."""

    def __init__(self) -> None:
        self.model = ViT(
            num_classes=CLASSES,
            image_size=IMAGE_SIZE,
            channels=1,
            patch_size=CPU_SIZE.patch_size,
            width=CPU_SIZE.width,
            depth=CPU_SIZE.depth,
            mlp_dim=CPU_SIZE.mlp_dim,
            num_heads=CPU_SIZE.num_heads,
        )
        self._images = torch.randn(BATCH_SIZE, 1, IMAGE_SIZE, IMAGE_SIZE)
        self._labels = torch.randint(CLASSES, (BATCH_SIZE,))
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.gradients: tuple[Tensor, ...] = ()
        # In the order of the forward pass.
        self.parameters: list[tuple[Tensor, Tensor]] = []
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.register_forward_hook(self._keep(name))
                assert module.bias is not None
                self.parameters.append((module.weight, module.bias))
        self.output_dims = [len(bias) for _, bias in self.parameters]

    def _keep(self, name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            del module
            self.inputs[name], self.outputs[name] = inputs[0].detach(), output

        return hook

    def forward(self) -> None:
        self.logits = self.model(self._images)
        self._loss = F.cross_entropy(self.logits, self._labels)

    def extra_backward(self) -> None:
        sampled = torch.multinomial(self.logits.detach().softmax(-1), 1)
        loss = F.cross_entropy(self.logits, sampled[:, 0])
        self.gradients = torch.autograd.grad(
            loss, list(self.outputs.values()), retain_graph=True
        )

    def backward(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None
        self._loss.backward()

    def input_rows(self, name: str, *, summed: bool) -> Tensor:
        """Returns a layer's inputs, `[examples, positions, features]`.

        Args:
          name: Name of the layer.
          summed: Whether to sum over positions, keeping the axis.
        """
        values = self.inputs[name]
        if values.dim() == 4:
            size = CPU_SIZE.patch_size
            if summed:
                patches = values.unflatten(2, (-1, size)).unflatten(4, (-1, size))
                return patches.sum((2, 4)).flatten(1).unsqueeze(1)
            return F.unfold(values, size, stride=size).transpose(1, 2)
        if values.dim() == 2:
            return values.unsqueeze(1)
        return values.sum(1, keepdim=True) if summed else values


class _Kronecker:
    """The work on factors, as the submission does it."""

    def __init__(self, passes: _Passes) -> None:
        self._passes = passes
        self._averages: list[Tensor] = []
        self._inverses: list[Tensor] = []

    def _gradient_rows(self) -> list[Tensor]:
        return [
            g.flatten(2).transpose(1, 2) if g.dim() == 4 else g.reshape(len(g), -1, w)
            for g, w in zip(
                self._passes.gradients, self._passes.output_dims, strict=True
            )
        ]

    def _update(self, factors: Sequence[Tensor]) -> None:
        if not self._averages:
            self._averages = [torch.zeros_like(factor) for factor in factors]
        for average, factor in zip(self._averages, factors, strict=True):
            scaled = factor / BATCH_SIZE
            _ = scaled.diagonal().mean() + 0 * scaled.sum()
            average.lerp_(scaled, 0.1)

    @torch.no_grad()
    def expand(self) -> None:
        factors = []
        gradients = self._gradient_rows()
        for name, gradient in zip(self._passes.inputs, gradients, strict=True):
            rows = self._passes.input_rows(name, summed=False).flatten(0, 1)
            gram, total = rows.T @ rows, rows.sum(0)
            d = len(total)
            extended = gram.new_empty(d + 1, d + 1)
            extended[:d, :d] = gram
            extended[:d, d] = total
            extended[d, :d] = total
            extended[d, d] = len(rows)
            rows = gradient.flatten(0, 1)
            factors += [extended, rows.T @ rows]
        self._update(factors)

    @torch.no_grad()
    def reduce(self) -> None:
        factors = []
        gradients = self._gradient_rows()
        for name, gradient in zip(self._passes.inputs, gradients, strict=True):
            summed = self._passes.input_rows(name, summed=True).squeeze(1)
            ones = summed.new_ones(len(summed), 1)
            rows = torch.cat([summed, ones], 1) / gradient.shape[1]
            total = gradient.sum(1)
            squares = torch.linalg.vector_norm(gradient) ** 2
            left = torch.linalg.vector_norm(total) ** 2
            total = torch.where(left < 1e-10 * squares, 0.0, total)
            factors += [rows.T @ rows, total.T @ total]
        self._update(factors)

    @torch.no_grad()
    def invert(self) -> None:
        self._inverses = []
        for average in self._averages:
            damped = average / average.diagonal().mean().clamp(min=1e-30)
            damped.diagonal().add_(0.3)
            self._inverses.append(torch.cholesky_inverse(torch.linalg.cholesky(damped)))

    @torch.no_grad()
    def precondition(self) -> None:
        inverses = iter(self._inverses)
        for weight, bias in self._passes.parameters:
            assert weight.grad is not None
            assert bias.grad is not None
            gradient = torch.cat([weight.grad.flatten(1), bias.grad[:, None]], 1)
            a, b = next(inverses), next(inverses)
            matrix = b @ gradient @ a
            matrix[:, :-1].reshape(weight.shape)
            matrix[:, -1].reshape(bias.shape)


def _parts() -> dict[str, Callable[[], Any]]:
    """Returns the parts of a step, to be called in this order."""
    passes = _Passes()
    kronecker = _Kronecker(passes)
    optimizer = FirstOrderOptimizer(passes.model, Settings(approximation='none'), None)
    return {
        'forward': passes.forward,
        'extra backward': passes.extra_backward,
        'backward': passes.backward,
        'factors, expand': kronecker.expand,
        'factors, reduce': kronecker.reduce,
        'inverses': kronecker.invert,
        'preconditioning': kronecker.precondition,
        # A learning rate of zero, so that the same work is timed in every round.
        'first-order rule': lambda: optimizer.step(0.0),
    }


def compare(rounds: int) -> list[dict[str, Any]]:
    """Compares predictions with measurements.

    Probes and parts are timed in turn, so that both see the same machine where others
    use it too.

    Args:
      rounds: How often each is timed.

    Returns:
      Predicted and measured milliseconds, and their ratio, by part.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = _seconds({**_probes(), **_parts()}, rounds)
    torch.set_num_threads(threads)
    device, cost = _device(seconds), StepCost(offline_model())
    parts: dict[str, Part] = {}
    for approximation in ('expand', 'reduce'):
        for name, part in cost.parts(approximation).items():
            parts[f'{name}, {approximation}' if name == 'factors' else name] = part
    return [
        {
            'part': name,
            'predicted_ms': 1e3 * device.seconds(part),
            'measured_ms': 1e3 * seconds[name],
            'ratio': device.seconds(part) / seconds[name],
        }
        for name, part in parts.items()
        if name in seconds
    ]


def format_comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats a comparison as a table."""
    lines = [f'{"part":16} | predicted ms | measured ms | predicted / measured']
    lines += [
        f'{row["part"]:16} | {row["predicted_ms"]:12.3f} | {row["measured_ms"]:11.3f} '
        f'| {row["ratio"]:.2f}'
        for row in rows
    ]
    return '\n'.join(lines)
