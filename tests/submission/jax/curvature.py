"""What the curvature tests share: GGN blocks by autodiff, and K-FAC's."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from submission.jax.approximations import ExpandSums, FactorSums, ReduceSums
from submission.jax.capture import Capture, find_applications
from submission.jax.layers import assign_parameters
from submission.jax.naming import flatten
from submission.jax.weight_sharing import BatchStructure

EXACT = 1e-12
WRONG = 0.05


class Graphs(NamedTuple):
    """The fields of a batch of graphs that matter here; the names are jraph's."""

    nodes: np.ndarray
    edges: np.ndarray
    senders: np.ndarray
    n_node: np.ndarray
    n_edge: np.ndarray

    def graph_of_node(self):
        numbers = jnp.arange(len(self.n_node))
        return jnp.repeat(numbers, self.n_node, total_repeat_length=len(self.nodes))


def double(*shape, seed=0):
    """Standard normal numbers in float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def covariance(dim, seed=0):
    """A random positive definite matrix."""
    root = double(dim, dim, seed=seed)
    return root @ root.T + 0.1 * np.eye(dim)


def random_sums(layers):
    """Sums for random positive definite factors, layer name to them."""
    sums = {}
    for layer in layers:
        seed = sum(map(ord, layer.name))
        roots = [
            double(layer.groups, d, d, seed=seed + d)
            for d in (layer.input_dim, layer.output_dim)
        ]
        a, b = (root @ root.swapaxes(1, 2) for root in roots)
        sums[layer.name] = FactorSums(a, jnp.ones(()), b)
    return sums


def batch_of(inputs, **more):
    """An AlgoPerf batch; only the number of targets matters to K-FAC."""
    return {'inputs': inputs, 'targets': np.zeros(len(inputs)), **more}


def half_squared_norm(outputs):
    return 0.5 * (outputs**2).sum()


def gaussian(precision):
    """The summed negative log-likelihood of zero labels, as a function of outputs."""

    def loss(outputs):
        return 0.5 * jnp.einsum('...i,ij,...j->', outputs, precision, outputs)

    return loss


def _initialise(module, *args):
    """As workloads do; a recurrent cell has its carry in single precision."""
    args = jax.tree.map(
        lambda a: a.astype(np.float32) if a.dtype == np.float64 else a, args
    )
    return module.init(jax.random.key(0), *args)['params']


def init(module, *args):
    """Random parameters, biases included, in float64."""
    shapes = jax.eval_shape(functools.partial(_initialise, module), *args)
    leaves, structure = jax.tree.flatten(shapes)
    values = [
        double(*leaf.shape, seed=1000 + i) / math.sqrt(max(leaf.shape, default=1))
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, values)


def find_layers(module, params, *args, max_factor_dimension=1024):
    """The layers of a module by name, and the assignments."""
    shapes = {name: np.shape(p) for name, p in flatten(params).items()}
    applications = find_applications(lambda: _initialise(module, *args))
    layers, assignments = assign_parameters(shapes, applications, max_factor_dimension)
    return {layer.name: layer for layer in layers}, assignments


def make_sums(approximation, normalisation='mean_inputs'):
    if approximation == 'expand':
        return ExpandSums()
    return ReduceSums(normalisation)


def captured_sums(
    module,
    params,
    batch,
    cotangents,
    approximation='expand',
    normalisation='mean_inputs',
    forward=None,
):
    """Factor sums for one or more gradients of the outputs, compiled.

    Args:
      module: The model.
      params: Its parameters.
      batch: The batch.
      cotangents: From the outputs to gradients with a leading axis of samples.
      approximation: Of the curvature.
      normalisation: Of K-FAC-reduce.
      forward: Calls the model with parameters and inputs, if not once.

    Returns:
      Layer name to sums, added up over the samples.
    """
    layers, _ = find_layers(module, params, batch['inputs'])
    sums = make_sums(approximation, normalisation)

    @jax.jit
    def run(params, batch):
        capture = Capture(list(layers.values()), BatchStructure.from_batch(batch), sums)

        def model(params):
            if forward is not None:
                return forward(params, batch['inputs']), None
            return module.apply({'params': params}, batch['inputs']), None

        outputs, backward, _ = capture.vjp(model, params)

        def sums_of(cotangent):
            return backward(cotangent)[1]

        every = jax.lax.map(sums_of, cotangents(outputs))
        return {
            name: one._replace(
                inputs=one.inputs[0],
                input_count=one.input_count[0],
                gradients=one.gradients.sum(0),
            )
            for name, one in every.items()
        }

    return run(params, batch)


def hessian_roots(loss):
    """Output gradients whose outer products add up to the Hessian of a loss."""

    def cotangents(outputs):
        flat = outputs.ravel()
        hessian = jax.hessian(lambda v: loss(v.reshape(outputs.shape)))(flat)
        values, vectors = jnp.linalg.eigh(hessian)
        roots = vectors * jnp.sqrt(jnp.maximum(values, 0))
        return roots.T.reshape(-1, *outputs.shape)

    return cotangents


def type_2_factors(
    module, params, batch, loss, loss_terms, approximation, normalisation='mean_inputs'
):
    """Factors from the exact Hessian of the loss: no sampling, no labels."""
    sums = captured_sums(
        module, params, batch, hessian_roots(loss), approximation, normalisation
    )
    return {name: one.kronecker_factors(loss_terms) for name, one in sums.items()}


class Factor(NamedTuple):
    """What K-FAC remembers of one side of a layer."""

    moving_average: jax.Array
    averaged_weight: jax.Array
    inverse: jax.Array
    inverted_scale: jax.Array


def by_layer(state):
    """The factors of a K-FAC state, layer name to side to `Factor`."""
    factors, layers = state.factors, {}
    for place, name in enumerate(factors.stacks.order):
        layer, _, side = name.rpartition('/')
        layers.setdefault(layer, {})[side] = Factor(
            factors.stacks.pick(factors.moving_average, [name])[0],
            factors.averaged_weight[place],
            factors.inverses_of([name])[0],
            factors.inverted_scale[place],
        )
    return layers


def kron(factors):
    """A kron B for each group."""
    return np.stack([np.kron(a, b) for a, b in zip(*factors, strict=True)])


def ggn_blocks(module, params, batch, loss, loss_terms, names):
    """The exact GGN blocks of layers, for each group, by plain autodiff."""
    layers, _ = find_layers(module, params, batch['inputs'])
    structure = jax.tree.structure(params)

    def block(name, params, inputs):
        layer, named = layers[name], flatten(params)

        def outputs_of(own):
            changed = {**named, **dict(zip(layer.parameter_names, own, strict=True))}
            model_params = jax.tree.unflatten(structure, list(changed.values()))
            return module.apply({'params': model_params}, inputs)

        own = [named[n] for n in layer.parameter_names]
        outputs = outputs_of(own)
        jacobians = jax.jacrev(lambda own: outputs_of(own).ravel())(own)
        matrices = jax.vmap(layer.to_matrix)(jacobians)
        # vec(W) stacks columns, for which the block is A kron B.
        columns = matrices.swapaxes(-1, -2).reshape(*matrices.shape[:2], -1)
        hessian = jax.hessian(lambda v: loss(v.reshape(outputs.shape)))(outputs.ravel())
        return jnp.einsum('pgi,pq,qgj->gij', columns, hessian, columns) / loss_terms

    @jax.jit
    def blocks(params, inputs):
        return {name: block(name, params, inputs) for name in names}

    return blocks(jax.tree.map(jnp.asarray, params), batch['inputs'])


def relative_error(approximation, exact):
    return float(np.linalg.norm(approximation - exact) / np.linalg.norm(exact))


def layer_errors(
    module,
    params,
    batch,
    loss,
    loss_terms,
    names=None,
    normalisation='mean_inputs',
    approximations=('expand', 'reduce'),
):
    """Relative errors of the approximations, by layer."""
    if names is None:
        names = list(find_layers(module, params, batch['inputs'])[0])
    exact = ggn_blocks(module, params, batch, loss, loss_terms, names)
    errors = {name: {} for name in names}
    for approximation in approximations:
        factors = type_2_factors(
            module, params, batch, loss, loss_terms, approximation, normalisation
        )
        for name in names:
            errors[name][approximation] = relative_error(
                kron(factors[name]), exact[name]
            )
    return errors
