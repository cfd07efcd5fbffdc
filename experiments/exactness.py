"""Figures 1 and 2 of the paper: where K-FAC-expand and K-FAC-reduce are exact.

One layer of a deep linear network with weight sharing, N = 4 examples, R = 2
positions, d_in = d_out = 8: the exact GGN block, both approximations and their
absolute errors, with a loss term for each position (expand setting, Figure 1) and
with the positions averaged before the loss (reduce setting, Figure 2).

Run it as `python -m experiments.exactness`.
"""

import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.figure
import torch
from absl import flags
from torch import Tensor, nn

from experiments import command, ggn
from submission.pytorch.approximations import ExpandSums, FactorSums, ReduceSums
from submission.pytorch.capture import Capture, Sums
from submission.pytorch.kfac_layer import KFACLayer
from submission.pytorch.layers import assign_parameters
from submission.pytorch.weight_sharing import BatchStructure

Factors = tuple[Tensor, Tensor]
Matrices = dict[str, Tensor]

APPROXIMATIONS = ('expand', 'reduce')
SETTINGS = ('expand', 'reduce')
N_EXAMPLES, N_POSITIONS, DIM = 4, 2, 8


def make_sums(
    layer: KFACLayer, approximation: str, normalisation: str = 'mean_inputs'
) -> Sums:
    """Returns the empty factor sums of a layer for one approximation."""
    has_bias = layer.bias is not None
    if approximation == 'expand':
        return ExpandSums(has_bias)
    return ReduceSums(has_bias, normalisation)


def hessian_square_roots(loss: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """Returns S with S ST the Hessian of the loss, for each example by itself.

    Args:
      loss: The summed loss as a function of the outputs; no term of it sees the
        outputs of two examples.
      outputs: The network's outputs, `[examples, ...]`.

    Returns:
      Has shape `[examples, k, k]`, k being the number of outputs of an example.
    """
    n, k = len(outputs), outputs[0].numel()
    hessian = ggn.loss_hessian(loss, outputs).view(n, k, n, k)
    blocks = hessian.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    eigenvalues, eigenvectors = torch.linalg.eigh(blocks)
    return eigenvectors * eigenvalues.clamp(min=0).sqrt().unsqueeze(1)


def type_2_factors(
    model: nn.Module,
    batch: Mapping[str, Any],
    loss: Callable[[Tensor], Tensor],
    loss_terms: float,
    approximation: str,
    normalisation: str = 'mean_inputs',
) -> dict[str, Factors]:
    """Returns the Kronecker factors of the exact, type-2 GGN.

    Every column of the loss Hessian's square root goes back to the layers on its
    own, one output of each example at a time. That is the mean over infinitely
    many sampled labels, and costs as many passes as an example has outputs.

    Args:
      model: Called with the batch's `inputs`.
      batch: As AlgoPerf's.
      loss: The summed loss as a function of the model's outputs.
      loss_terms: M, the number of terms that the mean loss averages over.
      approximation: `expand` or `reduce`.
      normalisation: The `reduce_normalisation` of K-FAC-reduce.

    Returns:
      Layer name to A `[groups, d_in, d_in]` and B `[groups, d_out, d_out]`.
    """
    layers, _ = assign_parameters(model, max_factor_dimension=1024)
    structure = BatchStructure.from_batch(batch)
    empty = functools.partial(
        make_sums, approximation=approximation, normalisation=normalisation
    )
    with torch.no_grad():
        roots = hessian_square_roots(loss, model(batch['inputs']))
    totals: dict[str, FactorSums] = {}
    for column in roots.unbind(-1):
        with Capture(layers, structure, empty) as capture:
            outputs = model(batch['inputs'])
            capture.backward_to_layers(outputs, column.reshape(outputs.shape))
        for name, sums in capture.sums().items():
            if name in totals:
                totals[name].gradients += sums.gradients
            else:
                totals[name] = sums
    return {name: sums.kronecker_factors(loss_terms) for name, sums in totals.items()}


class DeepLinearNetwork(nn.Module):
    """Linear layers without anything between, applied at each position.

    Args:
      dims: Width of the input and of each layer's output.
      aggregation: Maps `[examples, positions, d]` to the output; None leaves one
        output for each position.
      bias: Whether the layers have one.
    """

    def __init__(
        self,
        dims: Sequence[int],
        aggregation: Callable[[Tensor], Tensor] | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Linear(d_in, d_out, bias=bias, dtype=torch.float64)
                for d_in, d_out in itertools.pairwise(dims)
            )
        )
        self._aggregation = aggregation

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[examples, positions, d_in]` to the outputs."""
        x = self.layers(x)
        return x if self._aggregation is None else self._aggregation(x)


def half_squared_norm(outputs: Tensor) -> Tensor:
    """Gaussian negative log-likelihood, identity covariance, summed, up to a constant.

    The labels are zero: no GGN depends on them.
    """
    return 0.5 * outputs.square().sum()


def compute_matrices(setting: str, seed: int = 0) -> Matrices:
    """Returns the GGN block of the first layer and both approximations of it.

    Args:
      setting: `expand` for a loss term at each position, `reduce` for positions
        averaged before the loss.
      seed: Of weights and inputs.

    Returns:
      `exact`, `expand` and `reduce`, each of shape `[64, 64]`.
    """
    torch.manual_seed(seed)
    aggregation = None if setting == 'expand' else functools.partial(torch.mean, dim=1)
    model = DeepLinearNetwork([DIM, DIM, DIM], aggregation)
    inputs = torch.randn(N_EXAMPLES, N_POSITIONS, DIM, dtype=torch.float64)
    batch = {'inputs': inputs, 'targets': torch.zeros(N_EXAMPLES)}
    loss_terms = N_EXAMPLES * (N_POSITIONS if setting == 'expand' else 1)
    name = 'layers.0'
    matrices = {
        'exact': ggn.layer_ggn(
            model, (inputs,), half_squared_norm, loss_terms, f'{name}.weight'
        )[0]
    }
    for approximation in APPROXIMATIONS:
        factor_a, factor_b = type_2_factors(
            model, batch, half_squared_norm, loss_terms, approximation
        )[name]
        matrices[approximation] = torch.kron(factor_a[0], factor_b[0])
    return matrices


def draw(setting: str, matrices: Matrices, path: pathlib.Path) -> None:
    """Draws the blocks in the upper and the absolute errors in the lower row."""
    figure = matplotlib.figure.Figure(figsize=(9.6, 6.4), layout='constrained')
    axes = figure.subplots(2, 3)
    limit = max(float(matrix.abs().max()) for matrix in matrices.values())
    titles = {'exact': 'GGN', 'expand': 'K-FAC-expand', 'reduce': 'K-FAC-reduce'}
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        blocks = axis.imshow(matrix.numpy(), cmap='RdBu', vmin=-limit, vmax=limit)
        axis.set_title(titles[name])
    figure.colorbar(blocks, ax=list(axes[0]), label='value')
    axes[1, 0].set_axis_off()
    axes[1, 0].text(
        0.5,
        0.5,
        f'{setting.capitalize()} setting\n\n'
        f'N = {N_EXAMPLES}, R = {N_POSITIONS}\n'
        f'first layer, {DIM} to {DIM},\nof a deep linear network\n\n'
        'Upper row: the blocks\nLower row: absolute errors',
        ha='center',
        va='center',
        fontsize='large',
    )
    for axis, name in zip(axes[1, 1:], APPROXIMATIONS, strict=True):
        difference = (matrices[name] - matrices['exact']).abs()
        errors = axis.imshow(difference.numpy(), cmap='Reds', vmin=0, vmax=limit)
        relative = ggn.relative_error(matrices[name], matrices['exact'])
        axis.set_title(f'|GGN - {titles[name]}|')
        axis.set_xlabel(f'relative Frobenius error {relative:.1e}')
    figure.colorbar(errors, ax=list(axes[1]), label='absolute error')
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(path, dpi=150)


def reproduce(output_dir: pathlib.Path) -> dict[str, dict[str, float]]:
    """Writes both figures and `relative_errors.json`.

    Args:
      output_dir: Where to; made if it does not exist.

    Returns:
      Setting to approximation to relative Frobenius error.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    relative_errors = {}
    for number, setting in enumerate(SETTINGS, start=1):
        matrices = compute_matrices(setting)
        draw(
            setting,
            matrices,
            output_dir / f'figure_{number}_{setting}_setting.png',
        )
        relative_errors[setting] = {
            approximation: ggn.relative_error(
                matrices[approximation], matrices['exact']
            )
            for approximation in APPROXIMATIONS
        }
    path = output_dir / 'relative_errors.json'
    path.write_text(json.dumps(relative_errors, indent=2) + '\n')
    return relative_errors


def main() -> None:
    """Reproduces the figures and prints the errors as a table."""
    output_dir = pathlib.Path(flags.FLAGS.output_dir)
    relative_errors = reproduce(output_dir)
    print('Relative Frobenius error against the exact GGN block')
    print(f'{"setting":<10}{"K-FAC-expand":>14}{"K-FAC-reduce":>14}')
    for setting, errors in relative_errors.items():
        cells = ''.join(f'{errors[name]:>14.1e}' for name in APPROXIMATIONS)
        print(f'{setting:<10}{cells}')
    print(f'Figures and relative_errors.json are in {output_dir}.')


if __name__ == '__main__':
    flags.DEFINE_string('output_dir', 'runs/exactness', 'Where the files go.')
    command.run(main)
