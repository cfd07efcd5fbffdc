"""The layers and the other work of AlgoPerf's models, from their dimensions."""

import dataclasses

from experiments.cost_model.operations import (
    FLOAT_BYTES,
    Operation,
    Part,
    copies,
    pointwise,
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear weight-sharing layer.

    Attributes:
      name: Of the layer, or of a group of equal ones.
      d_in: Inputs, the bias not counted.
      d_out: Outputs.
      positions: R, rows for each example, on average.
      count: Number of equal layers.
      bias: Whether it has one.
      input_gradient: Whether the backward pass goes on below it.
      unfolded: Whether its rows are patches, which have to be copied together.
    """

    name: str
    d_in: int
    d_out: int
    positions: float
    count: int = 1
    bias: bool = True
    input_gradient: bool = True
    unfolded: bool = False

    @property
    def factor_dims(self) -> tuple[int, int]:
        """Dimensions of the Kronecker factors A and B."""
        return self.d_in + self.bias, self.d_out

    @property
    def parameters(self) -> int:
        """Number of parameters of one such layer."""
        return (self.d_in + self.bias) * self.d_out


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with its batch.

    Attributes:
      name: Of the workload.
      batch_size: Global batch size.
      layers: The layers that K-FAC handles.
      products: Products without parameters in the forward pass of one example; the
        backward pass has twice as many.
      elementwise: All else in the forward pass of one example.
      elementwise_backward: All else in the backward pass of one example.
      other_parameters: Number of parameters that K-FAC leaves to NAdamW.
      parameter_tensors: Number of tensors that hold the parameters.
    """

    name: str
    batch_size: int
    layers: tuple[Layer, ...]
    products: Part
    elementwise: Part
    elementwise_backward: Part
    other_parameters: int
    parameter_tensors: int

    @property
    def parameters(self) -> int:
        """Number of all parameters."""
        in_layers = sum(layer.count * layer.parameters for layer in self.layers)
        return in_layers + self.other_parameters

    @property
    def factor_dims(self) -> list[int]:
        """Dimensions of all Kronecker factors."""
        return [
            dim
            for layer in self.layers
            for dim in layer.factor_dims
            for _ in range(layer.count)
        ]


def vision_transformer(
    name: str,
    batch_size: int,
    *,
    tokens: int,
    width: int,
    depth: int,
    mlp_dim: int,
    heads: int,
    patch_inputs: int,
    classes: int,
) -> Model:
    """Describes AlgoPerf's ViT: averaged tokens, a hidden layer before the head.

    Args:
      name: Of the workload.
      batch_size: Global batch size.
      tokens: Patches of an image.
      width: Size of a token.
      depth: Number of blocks.
      mlp_dim: Hidden size of a block's MLP.
      heads: Attention heads.
      patch_inputs: Pixels of a patch times channels.
      classes: Outputs.
    """
    layers = (
        Layer(
            'patches',
            patch_inputs,
            width,
            tokens,
            input_gradient=False,
            unfolded=True,
        ),
        Layer('attention', width, width, tokens, count=4 * depth),
        Layer('mlp in', width, mlp_dim, tokens, count=depth),
        Layer('mlp out', mlp_dim, width, tokens, count=depth),
        Layer('pre-logits', width, width, 1),
        Layer('head', width, classes, 1),
    )
    scores = heads * tokens**2
    # Queries with keys and attention with values, each a product a head.
    attention = Operation(
        'batch',
        2 * 2.0 * tokens**2 * width,
        FLOAT_BYTES * (2 * scores + 4 * tokens * width),
        kernels=2,
    ).times(depth)
    features, hidden = tokens * width * depth, tokens * mlp_dim * depth
    # The hyperbolic tangent in the activation costs three exponentials.
    activation = pointwise(hidden, passes=2, exponentials=3, kernels=depth)
    elementwise = (
        # Two normalisations, two sums into the residual stream, scaled queries.
        pointwise(features, passes=2 * 2 + 2 * 3 + 2, kernels=5 * depth),
        # Heads and tokens change places in queries, keys, values and outcome.
        copies(4 * features, kernels=4 * depth),
        activation,
        # Softmax.
        pointwise(scores * depth, passes=2, exponentials=1, kernels=depth),
        # Position embedding, last normalisation, average.
        pointwise(tokens * width, passes=3 + 2 + 1, kernels=3),
    )
    elementwise_backward = (
        # As many normalisations, copies and scalings; gradients of the residual stream
        # and of the three projections' common input are added up.
        pointwise(features, passes=2 * 3 + 4 * 3 + 2, kernels=7 * depth),
        copies(4 * features, kernels=4 * depth),
        activation,
        pointwise(scores * depth, passes=3, kernels=depth),
        pointwise(tokens * width, passes=3 + 1, kernels=2),
    )
    n_norms = 2 * depth + 1
    return Model(
        name,
        batch_size,
        layers,
        (attention,),
        elementwise,
        elementwise_backward,
        other_parameters=2 * width * n_norms,
        parameter_tensors=2 * (n_norms + sum(layer.count for layer in layers)),
    )


def graph_network(
    name: str,
    batch_size: int,
    *,
    nodes: float,
    edges: float,
    latent_dim: int,
    hidden_dim: int,
    steps: int,
    outputs: int,
    node_features: int,
    edge_features: int,
) -> Model:
    """Describes AlgoPerf's GNN: edge, node and global MLPs of one layer each.

    Args:
      name: Of the workload.
      batch_size: Global batch size in graphs.
      nodes: Average number of nodes of a graph.
      edges: Average number of directed edges of a graph.
      latent_dim: Size of embedded nodes and edges.
      hidden_dim: Size of the MLPs' outputs.
      steps: Message-passing steps.
      outputs: Tasks; also the size of the first step's globals.
      node_features: Size of a node's input.
      edge_features: Size of an edge's input.
    """
    layers = [
        Layer('node embedding', node_features, latent_dim, nodes, input_gradient=False),
        Layer('edge embedding', edge_features, latent_dim, edges, input_gradient=False),
    ]
    elementwise, elementwise_backward = [], []
    for first, count in ((True, 1), (False, steps - 1)):
        if count == 0:
            continue
        latent = latent_dim if first else hidden_dim
        globals_ = outputs if first else hidden_dim
        prefix = 'first' if first else 'later'
        # Columns of a row that are picked from rows of another kind, all of them and
        # those with a gradient, which the globals of the first step have not.
        picked = {
            'edges': (2 * latent + globals_, 2 * latent + (not first) * globals_),
            'nodes': (globals_, (not first) * globals_),
            'globals': (0, 0),
        }
        updates = (
            ('edges', 3 * latent + globals_, edges),
            ('nodes', latent + 2 * hidden_dim + globals_, nodes),
            ('globals', 2 * hidden_dim + globals_, 1),
        )
        for kind, d_in, rows in updates:
            layers.append(Layer(f'{prefix} {kind}', d_in, hidden_dim, rows, count))
            columns, with_gradient = picked[kind]
            hidden = hidden_dim * rows * count
            elementwise += [
                pointwise(columns * rows * count, passes=2, kernels=3 * count),
                # All columns are joined.
                pointwise(d_in * rows * count, passes=2, kernels=count),
                # Normalisation and activation.
                pointwise(hidden, passes=2 + 2, kernels=2 * count),
            ]
            elementwise_backward += [
                # Copied apart, and added up where they were picked.
                pointwise(with_gradient * rows * count, passes=4, kernels=6 * count),
                pointwise(hidden, passes=3 + 3, kernels=2 * count),
            ]
        # Sums of edges over both of their ends, of nodes and edges over their graph.
        summed = hidden_dim * (3 * edges + nodes) * count
        elementwise.append(pointwise(summed, passes=2, kernels=8 * count))
        elementwise_backward += [
            pointwise(summed, passes=2, kernels=4 * count),
            # An edge's output is used four times, and so is a node's.
            pointwise(
                hidden_dim * (edges + nodes) * count, passes=9, kernels=6 * count
            ),
        ]
    layers.append(Layer('decoder', hidden_dim, outputs, 1))
    n_norms = 3 * steps
    return Model(
        name,
        batch_size,
        tuple(layers),
        (),
        tuple(elementwise),
        tuple(elementwise_backward),
        other_parameters=2 * hidden_dim * n_norms,
        parameter_tensors=2 * (n_norms + sum(layer.count for layer in layers)),
    )


OGBG = graph_network(
    'ogbg',
    512,
    nodes=26,
    edges=56,
    latent_dim=256,
    hidden_dim=256,
    steps=5,
    outputs=128,
    node_features=9,
    edge_features=3,
)
IMAGENET_VIT = vision_transformer(
    'imagenet_vit',
    1024,
    tokens=196,
    width=384,
    depth=12,
    mlp_dim=1536,
    heads=6,
    patch_inputs=3 * 16 * 16,
    classes=1000,
)
MODELS = (OGBG, IMAGENET_VIT)
