"""The functions that a runner calls, on tiny workloads, in single precision."""

import dataclasses
import logging
import types

import jax
import numpy as np
import pytest

from submission import jax_submission
from submission.jax import labels
from submission.jax.naming import flatten
from submission.settings import Settings
from workloads_overrides import spec

from .curvature import by_layer
from .tiny_workload import (
    TinyGraphWorkload,
    TinyModel,
    TinyPairWorkload,
    TinyTokenWorkload,
    TinyWorkload,
)
from .training import hyperparameters, init, train

LossType = spec.LossType


def _assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def _run(workload, point, steps, batches=None):
    return train(workload, point, *init(workload, point), range(steps), batches)


def _copy(tree):
    """A step takes over the arrays that it is given."""
    return jax.tree.map(np.array, tree)


class TestTraining:
    @pytest.mark.parametrize(
        ('workload', 'changes'),
        [
            (TinyWorkload(), {'approximation': 'none'}),
            (TinyWorkload(), {'first_order_rule': 'grafted', 'grad_clip': 0.5}),
            (
                TinyWorkload(),
                {
                    'approximation': 'expand',
                    'first_order_rule': 'momentum',
                    'fisher_type': 'empirical',
                },
            ),
            (TinyWorkload(), {'first_order_rule': 'spectral'}),
            (
                TinyWorkload(LossType.MEAN_SQUARED_ERROR),
                {'dropout_rate': 0.1, 'max_factor_dimension': 8},
            ),
            (TinyWorkload(LossType.SIGMOID_CROSS_ENTROPY), {}),
            (TinyTokenWorkload(), {'approximation': 'expand', 'label_smoothing': 0.1}),
            (TinyGraphWorkload(), {'reduce_normalisation': 'sum_inputs'}),
            (TinyWorkload(model=TinyModel(batch_norm=True)), {}),
        ],
        ids=[
            'NAdamW',
            'grafted',
            'momentum',
            'spectral',
            'squared error',
            'sigmoid',
            'tokens',
            'graphs',
            'batch statistics',
        ],
    )
    def test_the_loss_falls(self, workload, changes):
        point = hyperparameters(learning_rate=0.03, statistics_interval=3, **changes)
        (state, steps), params, model_state = init(workload, point)
        first_model_state = _copy(model_state)
        batch = workload.batch(1000, n=16)
        loss = jax.jit(
            lambda *args: workload.loss_fn(
                batch['targets'],
                workload.model_fn(
                    args[0], batch, args[1], spec.ForwardPassMode.EVAL, None, False
                )[0],
                batch.get('weights'),
            )['summed']
        )
        before = float(loss(params, model_state))
        (state, _), params, model_state = train(
            workload, point, (state, steps), params, model_state, range(60)
        )
        assert float(loss(params, model_state)) < 0.8 * before
        assert int(state.first_order.skipped_steps) == 0
        if changes.get('approximation') == 'none':
            assert state.kfac is None
        else:
            assert int(state.kfac.counters['factor_updates']) == 21
            assert int(state.kfac.counters['failed_inverses']) == 0
        if workload.model == TinyModel(batch_norm=True):
            means = [
                s['batch_stats']['norm']['mean']
                for s in (first_model_state, model_state)
            ]
            assert not np.array_equal(*means)
        else:
            assert model_state is None

    def test_zero_initialised_head(self):
        workload, point = (
            TinyWorkload(model=TinyModel(zero_head=True)),
            hyperparameters(),
        )
        state, params, model_state = init(workload, point)
        reached = []
        for step in range(2):
            state, params, model_state = train(
                workload, point, state, params, model_state, [step]
            )
            reached.append(
                {
                    n
                    for n, f in by_layer(state[0].kfac).items()
                    if f['b'].inverted_scale > 0
                }
            )
        assert reached == [{'head'}, {'first', 'second', 'head'}]

    def test_self_tuning_ruleset(self):
        """No hyperparameters at all."""
        (_, steps), *_ = init(TinyWorkload(), None)
        # Of a schedule that is too short for less weight decay.
        expected = dataclasses.replace(
            Settings.self_tuning(), weight_decay_exponent=0.0
        )
        assert steps.settings == expected

    def test_padding_examples_change_nothing(self):
        workload, point = TinyWorkload(), hyperparameters(fisher_type='empirical')
        padded = [workload.batch(step, weighted=True) for step in range(3)]
        plain = []
        for batch in padded:
            real = batch['weights'] != 0
            plain.append({k: v[real] for k, v in batch.items() if k != 'weights'})
        for batch in padded:
            batch['inputs'][batch['weights'] == 0] *= 100
        _, left, _ = _run(workload, point, 3, padded)
        _, right, _ = _run(workload, point, 3, plain)
        for name, value in flatten(left).items():
            np.testing.assert_allclose(
                value, flatten(right)[name], rtol=1e-3, atol=1e-5, err_msg=name
            )


def _times_compiled(steps):
    parts = (steps.plain, steps.statistics, steps.inverses, steps.apply)
    return [part._cache_size() for part in parts]


class WiderStatistics(TinyWorkload):
    """Gives running statistics back with leading axes, as AlgoPerf's speech does."""

    def __init__(self):
        super().__init__(model=TinyModel(batch_norm=True))

    def model_fn(self, *args, **kwargs):
        outputs, model_state = super().model_fn(*args, **kwargs)
        return outputs, jax.tree.map(lambda x: x[None, None], model_state)


class TestIntervals:
    def test_statistics_and_inverses(self):
        workload = TinyWorkload()
        point = hyperparameters(statistics_interval=3, inverse_interval=2)
        (state, steps), *_ = _run(workload, point, 7)
        counters = state.kfac.counters
        assert int(counters['factor_updates']) == len([0, 1, 3, 6])
        assert int(counters['inverse_updates']) == len([0, 1, 2, 4, 6])
        # One forward pass in each of the two kinds of step.
        assert workload.forward_passes_traced == 2
        assert _times_compiled(steps) == [1, 1, 1, 1]

    def test_each_part_of_a_step_is_compiled_once(self):
        workload = TinyWorkload()
        point = hyperparameters(statistics_interval=5, inverse_interval=10)
        (state, steps), *_ = _run(workload, point, 25)
        assert _times_compiled(steps) == [1, 1, 1, 1]
        assert int(state.kfac.counters['factor_updates']) == 6
        assert int(state.kfac.counters['inverse_updates']) == 4

    def test_also_where_the_model_changes_the_shape_of_its_state(self):
        narrow = TinyWorkload(model=TinyModel(batch_norm=True))
        (_, steps), *trained = _run(WiderStatistics(), hyperparameters(), 4)
        assert _times_compiled(steps) == [1, 1, 1, 1]
        _, *expected = _run(narrow, hyperparameters(), 4)
        _assert_equal(trained, expected)

    def test_nothing_is_captured_without_an_approximation(self):
        workload = TinyWorkload()
        (state, steps), *_ = _run(workload, hyperparameters(approximation='none'), 3)
        assert state.kfac is None
        assert workload.forward_passes_traced == 1
        assert _times_compiled(steps) == [1, 0, 0, 0]


class TestMemory:
    def test_a_step_takes_over_its_arrays(self):
        """Nothing is held twice: the old buffers are given to the new values."""
        workload = TinyWorkload(model=TinyModel(batch_norm=True))
        point = hyperparameters(statistics_interval=2, inverse_interval=2)
        state, params, model_state = _run(workload, point, 1)
        for step in (1, 2, 3):
            old = jax.tree.leaves((state[0], params, model_state))
            state, params, model_state = train(
                workload, point, state, params, model_state, [step]
            )
            # A plain step leaves the preconditioner as it is.
            kept = {id(leaf) for leaf in jax.tree.leaves(state[0].kfac)}
            assert all(leaf.is_deleted() or id(leaf) in kept for leaf in old), step

    def test_no_tracer_outlives_its_step(self):
        point = hyperparameters(statistics_interval=2)
        with jax.checking_leaks():
            _run(TinyWorkload(), point, 4)


@pytest.mark.parametrize('kind', [tuple, dict])
def test_losses_without_a_label_distribution(kind, caplog, monkeypatch):
    """They train with the empirical Fisher, and it is said once."""
    # absl counts over the whole process what it logs once.
    monkeypatch.setattr('absl.logging._log_counter_per_token', {})
    workload = TinyPairWorkload(kind)
    _, expected, _ = _run(workload, hyperparameters(fisher_type='empirical'), 2)
    with caplog.at_level(logging.WARNING):
        _, found, _ = _run(workload, hyperparameters(fisher_type='monte_carlo'), 2)
    _assert_equal(found, expected)
    (message,) = [record.getMessage() for record in caplog.records]
    assert 'CTC_LOSS' in message
    assert 'empirical Fisher' in message


class TestFisherTypes:
    def _averages(self, batch, **changes):
        point = hyperparameters(**changes)
        (state, _), *_ = _run(TinyWorkload(), point, 1, [batch])
        return [
            factor.moving_average
            for sides in by_layer(state.kfac).values()
            for factor in sides.values()
        ]

    def test_training_labels_do_not_enter_the_sampled_one(self):
        """Other targets, same factors: only the first-order part sees labels."""
        batch = TinyWorkload().batch(0)
        other = {**batch, 'targets': (batch['targets'] + 1) % 4}
        left, right = (
            self._averages(b, fisher_type='monte_carlo') for b in (batch, other)
        )
        _assert_equal(left, right)
        empirical = self._averages(batch, fisher_type='empirical')
        assert not all(map(np.array_equal, left, empirical))

    def test_labels_and_dropout_draw_different_numbers(self, monkeypatch):
        """Else what is dropped and what is sampled are correlated."""
        keys = {}
        sample = labels.sampled_output_gradient

        def recording(likelihood, outputs, batch, rng, scale):
            keys['labels'] = rng
            return sample(likelihood, outputs, batch, rng, scale)

        class Recording(TinyWorkload):
            def model_fn(self, *args, rng, **kwargs):
                keys['dropout'] = rng
                return super().model_fn(*args, rng=rng, **kwargs)

        monkeypatch.setattr(labels, 'sampled_output_gradient', recording)
        _run(Recording(), hyperparameters(fisher_type='monte_carlo'), 1)
        assert keys['labels'] is not keys['dropout']


class TestBadSteps:
    @pytest.mark.parametrize('fisher_type', ['empirical', 'monte_carlo'])
    def test_input_that_is_not_a_number(self, fisher_type):
        """Parameters, factors and batch statistics stay, and the run goes on."""
        workload = TinyWorkload(model=TinyModel(batch_norm=True))
        point = hyperparameters(
            fisher_type=fisher_type, statistics_interval=3, approximation='expand'
        )
        batches = {step: workload.batch(step) for step in range(6)}
        for step in (1, 2):
            batches[step]['inputs'][0, 0, 0] = np.nan
        state, params, model_state = _run(workload, point, 1)
        before, statistics = _copy(params), _copy(model_state)
        averages = _copy(by_layer(state[0].kfac)['first']['a'].moving_average)
        state, params, model_state = train(
            workload, point, state, params, model_state, [1, 2], batches
        )
        _assert_equal(params, before)
        _assert_equal(model_state, statistics)
        first = by_layer(state[0].kfac)['first']['a']
        np.testing.assert_array_equal(first.moving_average, averages)
        assert int(state[0].first_order.skipped_steps) == 2
        assert int(state[0].kfac.counters['skipped_statistics']) > 0
        state, params, model_state = train(
            workload, point, state, params, model_state, range(3, 6), batches
        )
        moved = jax.tree.map(np.not_equal, model_state, statistics)
        assert all(m.all() for m in jax.tree.leaves(moved))
        assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))
        assert not np.array_equal(params['first']['kernel'], before['first']['kernel'])
        assert int(state[0].first_order.skipped_steps) == 2


class JittedWorkload(TinyWorkload):
    """Compiles parts of itself and keeps them."""

    def __init__(self):
        super().__init__()
        self._init = jax.jit(self.model.init, static_argnums=(2, 3))
        self._apply = jax.jit(self.model.apply, static_argnums=(2, 3))

    def init_model_fn(self, rng):
        params = self._init({'params': rng}, self.batch()['inputs'], False, 0.0)
        return params['params'], None

    def model_fn(self, params, augmented_and_preprocessed_input_batch, *args, **kwargs):
        inputs = augmented_and_preprocessed_input_batch['inputs']
        return self._apply({'params': params}, inputs, False, 0.0), None


class TestWorkloadThatIsCompiledItself:
    """What it compiles in one kind of step is kept out of the other."""

    def _run(self, workload, steps):
        point = hyperparameters(statistics_interval=4, inverse_interval=4)
        return train(workload, point, *init(workload, point), steps)

    def _assert_all_layers_are_preconditioned(self, state):
        layers = by_layer(state.kfac)
        assert set(layers) == {'first', 'second', 'head'}
        assert all(f['a'].inverted_scale > 0 for f in layers.values())

    def test_trains_as_one_that_is_not(self):
        (state, _), found, _ = self._run(JittedWorkload(), range(7))
        self._assert_all_layers_are_preconditioned(state)
        _, expected, _ = self._run(TinyWorkload(), range(7))
        for name, value in flatten(expected).items():
            np.testing.assert_allclose(
                flatten(found)[name], value, rtol=1e-3, atol=1e-5
            )

    def test_resumed_between_two_statistics(self):
        (state, _), *_ = self._run(JittedWorkload(), [3, 4])
        self._assert_all_layers_are_preconditioned(state)


def test_factors_that_have_always_vanished_are_named(caplog):
    """With what is logged anyway."""
    (state, steps), *_ = init(TinyWorkload(), hyperparameters())
    counters = {**state.kfac.counters, 'factor_updates': 10}
    state = state._replace(kfac=state.kfac._replace(counters=counters))
    with caplog.at_level(logging.WARNING):
        scalars = {'loss': 1.0, 'grad_norm': 1.0}
        jax_submission._log(TinyWorkload(), 100, scalars, state, steps.preconditioner)
    messages = [record.getMessage() for record in caplog.records]
    assert len([m for m in messages if 'has vanished' in m]) == 6


def test_only_programs_of_a_cpu_are_compiled_in_a_hurry():
    assert jax_submission.compiler_options('cpu')
    for backend in ('gpu', 'tpu'):
        assert jax_submission.compiler_options(backend) is None


class TestRestOfTheContract:
    def test_mistakes_end_the_run_before_its_first_step(self):
        with pytest.raises(ValueError, match='approximation'):
            init(TinyWorkload(), hyperparameters(approximation='both'))

    def test_prepare_for_eval_changes_nothing_without_averages(self):
        state, params, model_state = init(TinyWorkload(), hyperparameters())
        found = jax_submission.prepare_for_eval(
            None, params, None, model_state, None, None, state, [], 3, None
        )
        assert found == (state, params, model_state)

    def test_data_selection_takes_the_next_batch(self):
        queue = iter([{'a': 1}, {'b': 2}])
        args = (TinyWorkload(), queue, {}, None, None, None, 0, None)
        assert jax_submission.data_selection(*args) == {'a': 1}
        assert jax_submission.data_selection(*args) == {'b': 2}

    def test_scalars_go_to_the_metrics_logger(self):
        """And the forward pass is the same, whatever else a step does."""
        losses = []
        for changes in (
            {'approximation': 'none'},
            {'fisher_type': 'empirical'},
            {'fisher_type': 'monte_carlo'},
        ):
            logged = {}
            workload = TinyWorkload()
            workload.attach_metrics_logger(
                types.SimpleNamespace(
                    append_scalar_metrics=lambda scalars, step, logged=logged: (
                        logged.update({step: scalars})
                    )
                )
            )
            _run(workload, hyperparameters(dropout_rate=0.5, **changes), 2)
            assert logged.keys() == {0}
            assert logged[0].keys() >= {'loss', 'grad_norm', 'kfac/skipped_steps'}
            losses.append(logged[0]['loss'])
        assert logged[0]['kfac/factor_updates'] == 1
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
        assert losses[0] > 0

    def test_learning_rate_follows_the_schedule(self):
        """At the end of it, nothing moves."""
        workload = TinyWorkload()
        point = hyperparameters(step_hint_factor=0.03, approximation='none')
        state, params, model_state = _run(workload, point, 3)
        before = _copy(params)
        assert not np.array_equal(
            before['head']['kernel'], init(workload, point)[1]['head']['kernel']
        )
        _, params, _ = train(workload, point, state, params, model_state, [3, 4])
        _assert_equal(params, before)

    def test_weight_decay_follows_the_length_of_the_schedule(self):
        workload = TinyWorkload()
        workload.step_hint = 4000
        ends = [
            _run(workload, hyperparameters(approximation='none', **changes), 2)[1]
            for changes in (
                {'weight_decay': 8.0, 'weight_decay_exponent': 1.0},
                {'weight_decay': 2.0},
            )
        ]
        _assert_equal(*ends)
