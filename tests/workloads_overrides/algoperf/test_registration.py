import pytest

from tests.workloads_overrides.algoperf.conftest import REASON

pytest.importorskip('algoperf', reason=REASON)
pytestmark = pytest.mark.algoperf

from algoperf.workloads import workloads  # noqa: E402

from workloads_overrides.algoperf import registration  # noqa: E402
from workloads_overrides.runner.errors import RunnerError  # noqa: E402

STOCK = [
    'ogbg',
    'ogbg_gelu',
    'ogbg_silu',
    'ogbg_model_size',
    'imagenet_vit',
    'imagenet_vit_glu',
    'imagenet_vit_post_ln',
    'imagenet_vit_map',
]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Forgets what a test registers."""
    registry = {name: dict(entry) for name, entry in workloads.WORKLOADS.items()}
    monkeypatch.setattr(workloads, 'WORKLOADS', registry)
    return registry


@pytest.mark.parametrize('framework', ['pytorch', 'jax'])
@pytest.mark.parametrize('size', ['cpu', 'small'])
@pytest.mark.parametrize('stock', STOCK)
def test_a_variant_is_found_as_the_runner_looks_for_it(
    registered, stock, size, framework
):
    name = f'{stock}_{size}'
    registration.register(name, framework)
    entry = registered[name]
    # The runner puts the path together like this.
    path = f'{workloads.BASE_WORKLOADS_DIR}{entry["workload_path"]}_{framework}'
    workload = workloads.import_workload(
        f'{path}/workload.py', entry['workload_class_name'], workload_init_kwargs={}
    )
    stock_class = registration.stock_class(stock, framework)
    assert isinstance(workload, stock_class)
    assert workloads.get_base_workload_name(name) in ('ogbg', 'imagenet_vit')
    # What makes the variant a variant stays AlgoPerf's.
    for attribute in (
        'activation_fn_name',
        'use_glu',
        'use_map',
        'use_post_layer_norm',
    ):
        if hasattr(stock_class, attribute):
            assert getattr(workload, attribute) == getattr(stock_class(), attribute)
    # No run ends at its first evaluation because its data is not the published one.
    assert not workload.has_reached_validation_target(
        {f'validation/{workload.target_metric_name}': 1.0}
    )
    with pytest.raises(ValueError, match='data on disk'):
        _ = workload.num_validation_examples


def test_the_names_of_algoperf_and_of_this_project_differ():
    assert not set(registration.names()) & set(workloads.WORKLOADS)


def test_a_stock_workload_stays_as_it_is(registered):
    before = {name: dict(entry) for name, entry in registered.items()}
    registration.register('ogbg', 'pytorch')
    assert registered == before


def test_an_offline_workload_is_registered(registered):
    registration.register('ogbg_chembl', 'pytorch')
    assert registered['ogbg_chembl']['workload_class_name'] == 'OgbgChemblWorkload'


def test_an_unknown_workload_is_an_error_that_lists_the_known_ones():
    with pytest.raises(RunnerError, match=r"'ogbg_smal'.*imagenet_vit.*ogbg_small"):
        registration.register('ogbg_smal', 'jax')


@pytest.mark.parametrize('stock', ['ogbg', 'ogbg_model_size'])
def test_a_small_model_has_the_layers_of_the_stock_one_but_narrower(stock):
    small = registration.workload_class(f'{stock}_small', 'pytorch')()
    model, _ = small.init_model_fn([1, 2])
    original = registration.stock_class(stock, 'pytorch')()
    assert len(small.hidden_dims) == len(original.hidden_dims)
    assert small.hidden_dims[0] * 8 == original.hidden_dims[0]
    assert model.decoder.in_features == small.hidden_dims[0]
    assert sum(p.numel() for p in model.parameters()) < 60_000


def test_the_small_vision_transformer_keeps_its_head_of_1000_classes():
    workload = registration.workload_class('imagenet_vit_map_small', 'pytorch')()
    model, _ = workload.init_model_fn([1, 2])
    assert (model.width, model.depth, model.num_classes) == (48, 2, 1000)
    assert model.map is not None
