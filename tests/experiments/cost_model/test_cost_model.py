"""The cost model against numbers worked out by hand."""

import dataclasses
import json
from typing import get_args

import pytest

from experiments.cost_model import measurements
from experiments.cost_model.models import IMAGENET_VIT, MODELS, OGBG, Layer, Model
from experiments.cost_model.offline_models import offline_model
from experiments.cost_model.operations import A100, Device, Kind, Operation
from experiments.cost_model.parts import StepCost, largest_share
from experiments.cost_model.report import (
    APPROXIMATIONS,
    FISHER_TYPES,
    RULES,
    format_report,
    memory,
    report,
)
from experiments.cost_model.step_time import StepTime, step_time
from workloads_overrides import registry

DEVICE = Device(
    'unit',
    flops=dict.fromkeys(get_args(Kind), 1e3),
    bandwidth=1e3,
    network=1e2,
    kernel_seconds=1e-3,
    column_seconds=0.0,
    list_seconds=1e-4,
)


def one_layer(**changes):
    """5 inputs and 3 outputs at 7 positions of each of 8 examples."""
    layer = dataclasses.replace(Layer('linear', 5, 3, positions=7), **changes)
    return Model('one layer', 8, (layer,), (), (), (), 0, 2)


def flops(part, *kinds):
    return sum(o.flops for o in part if not kinds or o.kind in kinds)


def sent(part):
    return sum(o.sent for o in part)


def test_flops_of_a_single_layer():
    cost = StepCost(one_layer(), statistics_stride=1)
    rows = 8 * 7
    assert flops(cost.forward()) == 2 * rows * 5 * 3
    assert flops(cost.backward()) == 2 * (2 * rows * 5 * 3)
    assert flops(cost.extra_backward()) == 2 * rows * 5 * 3
    assert flops(cost.factors('expand'), 'gram') == 2 * rows * (5**2 + 3**2)
    # The bias counts among the inputs once positions are summed.
    assert flops(cost.factors('reduce'), 'gram') == 2 * 8 * (6**2 + 3**2)
    assert flops(cost.inverses()) == 6**3 + 3**3
    # B^-1 [3, 3] times G [3, 6], and that times A^-1 [6, 6].
    both_sides = 2 * 3 * 3 * 6 + 2 * 3 * 6 * 6
    assert flops(cost.preconditioning(), 'square') == both_sides
    # Roots before and after six times the Gram matrix [3, 3] of [3, 6], its square, and
    # their sum with that again.
    iteration = 2 * 3 * 3 * 6 + 2 * 3 * 3 * 3 + 2 * 3 * 3 * 6
    assert flops(cost.spectral_directions(), 'square') == 2 * both_sides + 6 * iteration


def test_expand_takes_some_of_the_positions():
    every, one_in_4 = (
        StepCost(one_layer(), statistics_stride=stride) for stride in (1, 4)
    )
    # Two of the 7 positions.
    of_all = flops(every.factors('expand'), 'gram')
    assert flops(one_in_4.factors('expand'), 'gram') == of_all * 2 / 7
    assert one_in_4.factors('reduce') == every.factors('reduce')
    assert one_in_4.forward() == every.forward()


def test_large_gram_matrices_are_computed_by_half():
    layer = one_layer(bias=False, d_in=2048, d_out=256, positions=1000)
    rows = layer.batch_size * 1000
    on_cpu, elsewhere = (
        flops(
            StepCost(layer, on_cpu=place, statistics_stride=1).factors('expand'), 'gram'
        )
        for place in (True, False)
    )
    assert on_cpu == 2 * rows * 5 / 8 * (2048**2 + 256**2)
    assert elsewhere == 2 * rows * (5 / 8 * 2048**2 + 256**2)


def test_bytes_of_a_single_layer():
    cost = StepCost(one_layer())
    (product,) = cost.forward()
    assert product.bytes == 4 * (56 * (5 + 3) + 18)
    assert sum(o.bytes for o in cost.first_order_rule()) == (28 + 2) * 4 * 18
    assert memory(one_layer())['factors'] == 4 * (36 + 9) / 2**20


def test_communication_of_a_single_layer():
    cost = StepCost(one_layer(), devices=4)
    assert sent(cost.gradient_all_reduce()) == 2 * 4 * 18 * 3 / 4
    # Half of each symmetric factor and its diagonal: 21 and 6 entries.
    assert sent(cost.factor_all_reduce()) == 2 * 4 * (21 + 6) * 3 / 4
    assert sent(cost.broadcast()) == 4 * (36 + 9) * 3 / 4
    assert StepCost(one_layer()).broadcast() == ()
    for several, one in (
        (cost.preconditioning(), StepCost(one_layer()).preconditioning()),
        (cost.spectral_directions(), StepCost(one_layer()).spectral_directions()),
    ):
        assert sent(several) == 4 * 18 * 3 / 4
        assert sent(one) == 0


def test_the_lowest_layer_has_no_input_gradient():
    cost = StepCost(one_layer(input_gradient=False))
    assert flops(cost.backward()) == flops(cost.forward())
    assert cost.extra_backward() == ()


def test_inputs_and_outputs_are_alike():
    """But for the bias, exchanging them changes no cost of K-FAC."""
    there = StepCost(one_layer(bias=False))
    back = StepCost(one_layer(bias=False, d_in=3, d_out=5))
    for name in ('forward', 'extra backward', 'inverses', 'broadcast'):
        part, mirrored = (c.parts('expand')[name] for c in (there, back))
        assert flops(part) == flops(mirrored)
        assert DEVICE.seconds(part) == pytest.approx(DEVICE.seconds(mirrored))
    for approximation in ('expand', 'reduce'):
        grams = [flops(c.factors(approximation), 'gram') for c in (there, back)]
        assert grams[0] == grams[1]


def test_without_positions_the_approximations_multiply_equally_much():
    cost = StepCost(one_layer(positions=1, bias=False))
    expand, reduce = (flops(cost.factors(a), 'gram') for a in ('expand', 'reduce'))
    assert expand == reduce


@pytest.mark.parametrize('approximation', APPROXIMATIONS)
@pytest.mark.parametrize('model', MODELS, ids=lambda model: model.name)
def test_equal_layers_add_up(model, approximation):
    """A group of n layers costs what n layers cost one by one."""
    one_by_one = dataclasses.replace(
        model,
        layers=tuple(
            dataclasses.replace(layer, count=1)
            for layer in model.layers
            for _ in range(layer.count)
        ),
    )
    grouped, single = (StepCost(m, 8).parts(approximation) for m in (model, one_by_one))
    for name, part in grouped.items():
        assert flops(part) == pytest.approx(flops(single[name])), name
        assert A100.seconds(part) == pytest.approx(A100.seconds(single[name])), name


@pytest.mark.parametrize('model', MODELS, ids=lambda model: model.name)
def test_more_devices_share_what_depends_on_the_batch(model):
    one, eight = (StepCost(model, n).parts('expand') for n in (1, 8))
    for name in ('forward', 'backward', 'extra backward'):
        assert flops(one[name]) == pytest.approx(8 * flops(eight[name]))
        assert [o.kernels for o in one[name]] == [o.kernels for o in eight[name]]
    for name in ('inverses', 'preconditioning', 'spectral directions'):
        assert flops(one[name]) / 8 <= flops(eight[name]) < flops(one[name])


def test_parameters_are_those_of_the_stock_models():
    """Counted by PyTorch on AlgoPerf's own models."""
    assert (OGBG.parameters, OGBG.parameter_tensors) == (3_554_176, 66)
    vit = IMAGENET_VIT
    assert (vit.parameters, vit.parameter_tensors) == (22_122_472, 200)


@pytest.mark.parametrize('name', ['imagenet_vit_fashion_mnist', 'ogbg_chembl'])
def test_offline_models_are_described_rightly(name):
    model = offline_model(name)
    workload = registry.load_workload(name, 'pytorch')
    tensors = list(workload.init_model_fn((0, 1))[0].parameters())
    assert model.parameters == sum(tensor.numel() for tensor in tensors)
    assert model.parameter_tensors == len(tensors)


def test_factors_are_spread_by_cubed_dimension():
    def share(dims, devices):
        return largest_share(dims, devices, lambda dim: dim**3)

    assert share([2, 3, 4], devices=1) == [4, 3, 2]
    assert share([4, 3, 3, 3], devices=2) == [3, 3, 3]
    assert share([5, 5], devices=4) == [5]


def test_an_operation_takes_the_longer_of_arithmetic_and_traffic():
    product = Operation('rows', flops=3e3, bytes=1e3, sent=1e2, kernels=2)
    assert DEVICE.seconds((product,)) == pytest.approx(3 + 1 + 2e-3)
    copy = Operation('pointwise', flops=0, bytes=2e3, tensors=11)
    assert DEVICE.seconds((copy,)) == pytest.approx(2 + 1e-3 + 10 * 1e-4)
    assert DEVICE.seconds((product, copy)) == pytest.approx(6.003 + 0.001)
    assert DEVICE.seconds((product.times(3),)) == pytest.approx(3 * 4.002)


def test_overhead_counts_each_part_on_its_interval():
    times = StepTime(first_order=100, every_step=1, statistics=20, inverses=50)
    assert times.overhead(1, 1) == pytest.approx(0.71)
    assert times.overhead(10, 50) == pytest.approx(0.04)


def test_monte_carlo_adds_the_extra_backward_pass_alone():
    cost = StepCost(OGBG)
    empirical, sampled = (
        step_time(cost, A100, 'reduce', fisher) for fisher in FISHER_TYPES
    )
    extra = A100.seconds(cost.extra_backward())
    assert sampled.statistics - empirical.statistics == pytest.approx(extra)
    assert dataclasses.replace(sampled, statistics=empirical.statistics) == empirical


@pytest.mark.parametrize('statistics', [1.0, 20.0, 300.0])
@pytest.mark.parametrize('overhead', [0.02, 0.1, 0.5])
def test_best_intervals_are_the_shortest_within_the_overhead(statistics, overhead):
    times = StepTime(100, 1, statistics, 50)
    best = times.best_intervals(overhead)
    assert times.overhead(*best) <= overhead
    shorter = [
        (s, i)
        for s in range(1, sum(best))
        for i in range(s, sum(best) - s)
        # Rounding up both intervals costs at most two steps of their sum.
        if s + i < sum(best) - 2 and times.overhead(s, i) <= overhead
    ]
    assert shorter == []


def test_no_intervals_where_every_step_costs_too_much():
    assert StepTime(100, 6, 1, 1).best_intervals(0.05) is None


def test_the_report_holds_every_table():
    content = report(OGBG, 8, A100, overhead=0.05)
    assert json.loads(json.dumps(content))['devices'] == 8
    parts = content['parts']
    assert parts['factors, expand']['flops'] > parts['factors, reduce']['flops']
    assert set(content['variants']) == {
        f'{a}, {f}, {r}' for a in APPROXIMATIONS for f in FISHER_TYPES for r in RULES
    }
    for name, variant in content['variants'].items():
        overhead = variant['overhead']
        assert overhead['1, 1'] > overhead['10, 10'] > overhead['50, 50'] > 0
        if name.endswith('nadamw'):
            spectral = content['variants'][name.replace('nadamw', 'spectral')]
            added = spectral['overhead']['1, 1'] - overhead['1, 1']
            assert added > 0
            # The same in every step.
            for intervals in overhead:
                assert spectral['overhead'][intervals] - overhead[
                    intervals
                ] == pytest.approx(added)
    text = format_report(content, 0.05)
    for name in (*parts, *content['variants'], *content['memory_mib']):
        assert name in text


def test_a_workload_without_a_description():
    with pytest.raises(ValueError, match="'mnist'; there are imagenet_vit_fashion"):
        offline_model('mnist')


@pytest.mark.parametrize('name', ['imagenet_vit_fashion_mnist', 'ogbg_chembl'])
def test_predicted_and_measured_parts_are_the_same(name):
    rows = measurements.compare(name, rounds=2)
    assert {row['part'] for row in rows} == {
        *('forward and backward', 'extra backward', 'first-order rule'),
        *('factors, expand', 'factors, reduce', 'inverses', 'preconditioning'),
        'spectral directions',
    }
    for row in rows:
        # Within an order of magnitude, whatever else the machine does.
        assert 0.1 < row['ratio'] < 10, row
        assert row['part'] in measurements.format_comparison(rows)
