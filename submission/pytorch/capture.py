"""Captures layer inputs and output gradients during one forward pass.

Hooks exist only inside the `with` block of a statistics step. Inputs go into the
factor sums as the layer runs and gradients as the backward pass reaches it, so
nothing is held longer than autograd holds it.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from ..rows import AmbiguousRowsError
from .approximations import ExpandSums, FactorSums, ReduceSums
from .kfac_layer import KFACLayer
from .weight_sharing import BatchStructure, sums_dtype

Sums = ExpandSums | ReduceSums


@dataclasses.dataclass(frozen=True)
class _OutputEdge:
    """Where the gradient of a layer's output passes by.

    Attributes:
      layer: The layer.
      edge: The edge in autograd's graph.
      shape: Shape of the output; gradients at the edge may have another.
    """

    layer: KFACLayer
    edge: GradientEdge
    shape: torch.Size


class Capture:
    """Collects the factor sums of layers over one forward and backward pass.

    Use it as a context manager around both. After the forward pass call either
    `watch_backward`, to take the gradients of the training loss as they pass by
    (empirical Fisher), or `backward_to_layers`, to bring others to the layers.

    Inside, compiled parts of the model run as they were written, since compiled code
    does not see the hooks. A forward pass that is run again in the backward pass, by
    `torch.utils.checkpoint` with `use_reentrant=False`, adds nothing.
    """

    def __init__(
        self,
        layers: Sequence[KFACLayer],
        structure: BatchStructure,
        make_sums: Callable[[KFACLayer], Sums],
    ) -> None:
        """Prepares the capture.

        Args:
          layers: The layers to watch.
          structure: How the batch is spread over examples.
          make_sums: Makes the empty sums of a layer.
        """
        self._layers = layers
        self._structure = structure
        self._sums = {layer.name: make_sums(layer) for layer in layers}
        self._edges: list[_OutputEdge] = []
        self._forward_is_over = False
        self._cleanup = contextlib.ExitStack()
        self.errors: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Places the hooks."""
        # The compiler is loaded where something is compiled; loading it takes seconds.
        # PyTorch before 2.6 has no stances; see `wrappers.for_statistics`.
        if 'torch._dynamo' in sys.modules and hasattr(torch.compiler, 'set_stance'):
            self._cleanup.enter_context(torch.compiler.set_stance('force_eager'))
        for layer in self._layers:
            hook = functools.partial(self._forward_hook, layer)
            for module in layer.modules:
                handle = module.register_forward_hook(hook, with_kwargs=True)
                self._cleanup.callback(handle.remove)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Removes the hooks."""
        self._cleanup.close()

    def _forward_hook(
        self,
        layer: KFACLayer,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Tensor,
    ) -> Tensor | None:
        del module
        if not output.requires_grad:
            return None
        if not self._forward_is_over:
            inputs = args[0] if args else kwargs['input']
            self._add_inputs(layer, inputs, output.shape)
        if layer.name in self.errors:
            return None
        # The edge, not the tensor: the model may change its output in place. Of a
        # view, as `nn.Linear` returns for three axes, that changes the base, and
        # gradients go around the view's edge: to the base's, or to a copy's.
        base, copied = output._base, None
        if base is None:
            source = output
        elif _is_reshaped(output, base):
            source = base
        else:
            source, copied = output, output.clone()
        if not self._forward_is_over:
            edge = get_gradient_edge(source)
            self._edges.append(_OutputEdge(layer, edge, output.shape))
        # Also when it runs again, for that has to take the same course.
        return copied

    def _add_inputs(
        self, layer: KFACLayer, inputs: Tensor, output_shape: torch.Size
    ) -> None:
        sums = self._sums[layer.name]
        # Among padded positions the real ones have to be picked before any sum.
        may_sum = sums.sums_positions and not self._structure.pads_positions
        # Detached, so that what follows is not recorded.
        inputs = inputs.detach()
        with _own_precision(inputs):
            rows, multiplicity = layer.input_rows(inputs, may_sum, output_shape)
            try:
                shared = self._structure.to_weight_sharing_format(
                    rows, multiplicity, by_example=sums.sums_positions
                )
                sums.add_inputs(shared)
            except AmbiguousRowsError as error:
                self.errors[layer.name] = str(error)

    def watch_backward(self) -> None:
        """Takes the output gradients from the backward pass that follows."""
        self._forward_is_over = True
        for output in self._edges:
            hook = functools.partial(self._backward_hook, output)
            handle = output.edge.node.register_prehook(hook)
            self._cleanup.callback(handle.remove)

    def _backward_hook(
        self, output: _OutputEdge, gradients: tuple[Tensor, ...]
    ) -> None:
        gradient = gradients[output.edge.output_nr]
        if gradient is not None:
            self._add(output, gradient)

    def _add(self, output: _OutputEdge, gradient: Tensor) -> None:
        sums = self._sums[output.layer.name]
        gradient = gradient.detach()
        if gradient.shape != output.shape:
            gradient = gradient.reshape(output.shape)
        with _own_precision(gradient):
            rows = output.layer.gradient_rows(gradient)
            shared = self._structure.to_weight_sharing_format(
                rows, by_example=sums.sums_positions
            )
            sums.add_gradients(shared)

    def backward_to_layers(self, outputs: Tensor, output_gradients: Tensor) -> None:
        """Back-propagates to the layers' outputs only, not to the parameters.

        The gradient of an output is used as it passes by, on the way to others, and
        then freed. Only those where a path ends are asked for: all together they take
        as much memory as the outputs.

        Args:
          outputs: The model's output; its graph is kept.
          output_gradients: Gradient of a loss with respect to `outputs`.
        """
        self._forward_is_over = True
        if not self._edges:
            return
        ends = _ends_of_paths([output.edge.node for output in self._edges])
        last = [output for output in self._edges if output.edge.node in ends]
        with contextlib.ExitStack() as hooks:
            for output in self._edges:
                if output.edge.node not in ends:
                    hook = functools.partial(self._backward_hook, output)
                    hooks.callback(output.edge.node.register_prehook(hook).remove)
            gradients = torch.autograd.grad(
                outputs,
                [output.edge for output in last],
                output_gradients,
                retain_graph=True,
                allow_unused=True,
            )
        for output, gradient in zip(last, gradients, strict=True):
            if gradient is not None:
                self._add(output, gradient)

    def sums(self) -> dict[str, FactorSums]:
        """Returns layer name to factor sums; layers not reached are left out.

        They are in the precision of the parameters, and at least in single precision,
        whatever the passes ran in.
        """
        sums = {}
        for layer in self._layers:
            layer_sums = self._sums[layer.name].sums()
            if layer_sums is not None and layer.name not in self.errors:
                sums[layer.name] = layer_sums.to(sums_dtype(layer.weight.dtype))
        return sums


def _ends_of_paths(nodes: Sequence[Node]) -> set[Node]:
    """Returns those from which a backward pass comes to none of the others.

    Args:
      nodes: Nodes of autograd's graph.
    """
    among = set(nodes)
    # Whether a backward pass from a node comes to one of them; the keys keep the
    # nodes' objects, which are not the same ones when they are made again.
    leads: dict[Node, bool] = {}
    stack = list(nodes)
    while stack:
        node = stack[-1]
        following = [child for child, _ in node.next_functions if child is not None]
        unknown = [child for child in following if child not in leads]
        if unknown:
            stack += unknown
        else:
            stack.pop()
            leads[node] = any(child in among or leads[child] for child in following)
    return {node for node in among if not leads[node]}


def _own_precision(values: Tensor) -> contextlib.AbstractContextManager[None]:
    """Keeps automatic mixed precision from casting products of statistics."""
    kind = values.device.type
    # Switching it off where it is off takes as long as a small layer's sums.
    if not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def _is_reshaped(view: Tensor, base: Tensor) -> bool:
    """Returns whether a view has all elements of its base, in their order."""
    same_number = view.numel() == base.numel()
    return same_number and view.is_contiguous() and base.is_contiguous()
