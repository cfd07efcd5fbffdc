"""The offline workloads' models, described for the cost model."""

import itertools

from experiments.cost_model.models import Model, graph_network, vision_transformer
from submission.settings import get_batch_size
from workloads_overrides import registry
from workloads_overrides.imagenet_vit_fashion_mnist.dataset import (
    IMAGE_SIZE,
    NUM_CLASSES,
)
from workloads_overrides.imagenet_vit_fashion_mnist.workload import CPU_SIZE

# Batches over which the rows of a batch of graphs are averaged.
_BATCHES = 20


def offline_vision_transformer() -> Model:
    """Describes the model of `imagenet_vit_fashion_mnist`."""
    name = 'imagenet_vit_fashion_mnist'
    return vision_transformer(
        name,
        get_batch_size(name),
        tokens=(IMAGE_SIZE // CPU_SIZE.patch_size) ** 2,
        width=CPU_SIZE.width,
        depth=CPU_SIZE.depth,
        mlp_dim=CPU_SIZE.mlp_dim,
        heads=CPU_SIZE.num_heads,
        patch_inputs=CPU_SIZE.patch_size**2,
        classes=NUM_CLASSES,
    )


def offline_graph_network() -> Model:
    """Describes the model of `ogbg_chembl`, padding counted as rows like others."""
    name = 'ogbg_chembl'
    workload, batch_size = registry.load_workload(name, 'pytorch'), get_batch_size(name)
    queue = workload._build_input_queue((0, 1), 'train', None, batch_size)
    batches = [batch['inputs'] for batch in itertools.islice(queue, _BATCHES)]
    graphs = _BATCHES * batch_size
    (hidden_dim,) = workload.hidden_dims
    return graph_network(
        name,
        batch_size,
        nodes=sum(len(batch.nodes) for batch in batches) / graphs,
        edges=sum(len(batch.edges) for batch in batches) / graphs,
        latent_dim=workload.latent_dim,
        hidden_dim=hidden_dim,
        steps=workload.num_message_passing_steps,
        outputs=workload.num_outputs,
        node_features=batches[0].nodes.shape[-1],
        edge_features=batches[0].edges.shape[-1],
    )


def offline_model(workload: str) -> Model:
    """Describes the model of an offline workload.

    Raises:
      ValueError: If there is no description of it.
    """
    models = {
        'imagenet_vit_fashion_mnist': offline_vision_transformer,
        'ogbg_chembl': offline_graph_network,
    }
    if workload not in models:
        raise ValueError(
            f'No description of the model of {workload!r}; there are '
            f'{", ".join(models)}.'
        )
    return models[workload]()
