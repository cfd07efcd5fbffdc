import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.workloads_overrides.ogbg_chembl.small_data import small_arrays
from workloads_overrides import random_utils, spec
from workloads_overrides.ogbg_chembl import dataset as dataset_lib
from workloads_overrides.ogbg_chembl.pytorch_workload import (
    OgbgChemblFullWorkload,
    OgbgChemblGeluWorkload,
    OgbgChemblWorkload,
)

KEY = random_utils.prng_key(0)
TRAIN = spec.ForwardPassMode.TRAIN


@pytest.fixture(scope='module')
def small_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    np.savez(folder / dataset_lib.FILE_NAME, **small_arrays())
    return str(folder)


@pytest.fixture
def workload():
    return OgbgChemblWorkload()


def test_sizes_are_those_of_the_data(workload):
    dataset = dataset_lib.load_dataset()
    assert workload.num_train_examples == dataset.num_train
    assert workload.num_validation_examples == dataset.num_validation
    assert workload.num_test_examples == dataset.num_test


def test_default_and_full_size(workload):
    model, state = workload.init_model_fn(KEY)
    shapes = workload.param_shapes
    assert state is None
    assert sum(p.numel() for p in model.parameters()) == 158_400
    assert len(model.graph_network) == 3
    edge, node, last = (
        f'graph_network.2.update_{part}_fn.dense_0.weight'
        for part in ('edge', 'node', 'global')
    )
    assert shapes['graph_network.0.update_edge_fn.dense_0.weight'] == (64, 320)
    assert (shapes[edge], shapes[node], shapes[last]) == ((64, 256),) * 2 + ((64, 192),)
    full = OgbgChemblFullWorkload()
    model, _ = full.init_model_fn(KEY)
    assert len(model.graph_network) == 5
    assert full.param_shapes['node_embedder.weight'] == (256, 9)
    assert full.param_shapes['graph_network.4.update_edge_fn.dense_0.weight'] == (
        256,
        1024,
    )
    assert full.param_shapes['decoder.weight'] == (128, 256)


def test_variant_with_another_activation(workload):
    changed = OgbgChemblGeluWorkload()
    models = [w.init_model_fn(KEY)[0] for w in (workload, changed)]
    assert changed.activation_fn_name == 'gelu'
    assert changed.param_shapes == workload.param_shapes
    # The same parameters from the same key, and another function of them.
    first, second = (list(model.parameters()) for model in models)
    assert all(map(torch.equal, first, second))
    rows = torch.linspace(-2, 2, 64 * 320).reshape(64, 320)
    update = 'graph_network.0.update_edge_fn'
    outputs = [model.get_submodule(update)(rows, 0.0) for model in models]
    assert outputs[0].min() == 0 > outputs[1].min()


def test_parameter_types_and_output_layer(workload):
    with pytest.raises(ValueError, match='init_model_fn'):
        _ = workload.model_params_types
    workload.init_model_fn(KEY)
    types = workload.model_params_types
    prefix = 'graph_network.0.update_node_fn.'
    assert types.keys() == workload.param_shapes.keys()
    assert types[f'{prefix}dense_0.weight'] == spec.ParameterType.WEIGHT
    assert types[f'{prefix}dense_0.bias'] == spec.ParameterType.BIAS
    assert types[f'{prefix}norm_0.weight'] == spec.ParameterType.LAYER_NORM_SCALE
    assert types[f'{prefix}norm_0.bias'] == spec.ParameterType.LAYER_NORM_BIAS
    outputs = [name for name in types if workload.is_output_params(name)]
    assert outputs == ['decoder.weight', 'decoder.bias']


def test_same_key_same_parameters(workload):
    first, again = (workload.init_model_fn(KEY)[0].decoder.weight for _ in range(2))
    other = workload.init_model_fn(random_utils.prng_key(1))[0].decoder.weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def labels_and_logits(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(9, 128, generator=generator)
    labels = (torch.rand(9, 128, generator=generator) < 0.4).float()
    mask = torch.rand(9, 128, generator=generator) < 0.3
    return labels, logits, mask


def test_loss_is_sigmoid_cross_entropy_over_labels(workload):
    labels, logits, mask = labels_and_logits()
    labels, logits = labels.double(), logits.double()
    loss = workload.loss_fn(labels, logits, mask)
    p = torch.sigmoid(logits)
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()) * mask
    torch.testing.assert_close(loss['per_example'], expected)
    torch.testing.assert_close(loss['summed'], expected.sum())
    assert loss['n_valid_examples'].item() == mask.sum().item()
    everywhere = workload.loss_fn(labels, logits)
    assert everywhere['n_valid_examples'].item() == mask.numel()
    assert everywhere['summed'] > loss['summed']


def test_masked_cells_have_no_effect(workload):
    labels, logits, mask = labels_and_logits()
    logits.requires_grad_()
    loss = workload.loss_fn(labels, logits, mask, label_smoothing=0.1)['summed']
    spoilt = torch.where(mask, labels, float('nan'))
    same = workload.loss_fn(spoilt, logits, mask.float(), label_smoothing=0.1)['summed']
    assert same.item() == loss.item()
    (gradient,) = torch.autograd.grad(same, logits)
    assert gradient[~mask].abs().max() == 0
    assert gradient[mask].abs().min() > 0


def test_label_smoothing_moves_labels_towards_one_over_the_tasks(workload):
    labels, logits, mask = labels_and_logits()
    loss = workload.loss_fn(labels, logits, mask, label_smoothing=0.2)['summed']
    smoothed = 0.8 * labels + 0.2 / 128
    expected = F.binary_cross_entropy_with_logits(
        logits[mask], smoothed[mask], reduction='sum'
    )
    torch.testing.assert_close(loss, expected)


def test_large_logits_stay_finite(workload):
    logits = torch.tensor([[1e4, -1e4]])
    loss = workload.loss_fn(torch.tensor([[0.0, 1.0]]), logits, torch.ones(1, 2))
    assert loss['summed'].item() == pytest.approx(2e4)


def test_shape_mismatch_is_an_error(workload):
    with pytest.raises(ValueError, match='same shape'):
        workload.loss_fn(torch.zeros(3, 128), torch.zeros(3, 127), torch.ones(3, 128))


def test_queue_skips_and_yields_tensors(workload, small_dir):
    queues = [workload._build_input_queue(KEY, 'train', small_dir, 8) for _ in range(2)]
    for _ in range(9):
        next(queues[0])
    queues[1].skip(9)
    expected, batch = next(queues[0]), next(queues[1])
    assert torch.equal(batch['inputs'].nodes, expected['inputs'].nodes)
    assert torch.equal(batch['targets'], expected['targets'])
    assert batch['weights'].dtype == torch.bool
    assert batch['targets'].dtype == batch['inputs'].nodes.dtype == torch.float32
    assert iter(queues[1]) is queues[1]


def test_unknown_split_is_named(workload, small_dir):
    with pytest.raises(ValueError, match='holdout'):
        workload._build_input_queue(KEY, 'holdout', small_dir, 16)


def test_model_state_is_refused(workload, small_dir):
    model, _ = workload.init_model_fn(KEY)
    batch = next(workload._build_input_queue(KEY, 'train', small_dir, 16))
    with pytest.raises(ValueError, match='model_state'):
        workload.model_fn(model, batch, {}, TRAIN, KEY, False)


def test_training_on_one_batch_reduces_the_loss(workload):
    model, _ = workload.init_model_fn(KEY)
    batch = next(workload._build_input_queue(KEY, 'train', None, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        logits, _ = workload.model_fn(model, batch, None, TRAIN, KEY, False, 0.0)
        loss = workload.loss_fn(batch['targets'], logits, batch['weights'])
        mean = loss['summed'] / loss['n_valid_examples']
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        losses.append(mean.item())
    assert losses[-1] < 0.5 * losses[0]


def test_default_dropout_is_on(workload, small_dir):
    model, _ = workload.init_model_fn(KEY)
    batch = next(workload._build_input_queue(KEY, 'train', small_dir, 16))
    first, second = (
        workload.model_fn(model, batch, None, TRAIN, KEY, False)[0] for _ in range(2)
    )
    assert not torch.equal(first, second)


def test_evaluation_counts_every_graph_once(workload, small_dir):
    model, state = workload.init_model_fn(KEY)
    model.train()
    one_batch, small_batches, again = (
        workload.eval_model(size, model, state, KEY, small_dir, None, 0)
        for size in (64, 9, 9)
    )
    assert small_batches == pytest.approx(one_batch, rel=1e-4)
    assert again == small_batches
    assert small_batches['validation/num_examples'] == 3_563
    assert set(small_batches) == {
        f'{split}/{name}'
        for split in ('train', 'validation', 'test')
        for name in ('loss', 'accuracy', 'mean_average_precision')
    } | {'validation/num_examples', 'test/num_examples'}
    model.decoder.bias.data += 5.0
    moved = workload.eval_model(9, model, state, KEY, small_dir, None, 0)
    assert moved['test/loss'] > small_batches['test/loss']


def test_training_sample_is_spread_over_the_training_part(workload):
    queue = workload._build_input_queue(KEY, 'eval_train', None, 1024).queue
    ids = np.concatenate(queue._chunks)
    train = dataset_lib.load_dataset().indices('train')
    assert len(ids) == len(set(ids.tolist())) == workload.num_eval_train_examples
    assert set(ids.tolist()) <= set(train.tolist())
    gaps = np.diff([*np.searchsorted(train, ids), len(train)])
    assert gaps.max() - gaps.min() <= 1


def test_targets(workload):
    result = {
        'validation/mean_average_precision': workload.validation_target_value + 1e-6,
        'test/mean_average_precision': workload.test_target_value - 1e-6,
    }
    assert workload.has_reached_validation_target(result)
    assert not workload.has_reached_test_target(result)
