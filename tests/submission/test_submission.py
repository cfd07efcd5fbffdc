"""The functions that a runner calls, on a tiny workload."""

import io
import itertools
import logging
import types

import pytest
import torch
from torch import nn

from submission import pytorch_submission
from submission.harness import seed_from, training_mode
from submission.pytorch import labels
from workloads_overrides import spec

from .tiny_workload import TinyModel, TinyWorkload
from .training import hyperparameters, init, train

LossType = spec.LossType


def _values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def _run(workload, point, steps=6, model=None, batches=None):
    state, model = init(workload, point, model)
    return train(workload, point, state, model, range(steps), batches)


def _with_both_inverses(state):
    layers = state['preconditioner'].state_dict()['layers']
    return {
        name
        for name, sides in layers.items()
        if all(sides[side]['inverse'] is not None for side in 'ab')
    }


class TestTraining:
    @pytest.mark.parametrize(
        ('approximation', 'fisher_type', 'rule'),
        [
            ('none', 'monte_carlo', 'nadamw'),
            *itertools.product(
                ('expand', 'reduce'),
                ('empirical', 'monte_carlo'),
                ('momentum', 'grafted', 'nadamw', 'spectral'),
            ),
        ],
    )
    def test_the_loss_falls(self, approximation, fisher_type, rule):
        workload = TinyWorkload()
        point = hyperparameters(
            approximation=approximation,
            fisher_type=fisher_type,
            first_order_rule=rule,
            # The updates of a layer have about a fifth of NAdamW's size.
            learning_rate=0.1 if rule == 'spectral' else 0.03,
            statistics_interval=3,
            inverse_interval=3,
        )
        state, model = init(workload, point)
        before = workload.loss(model, workload.batch(1000, n=200))
        state, model = train(workload, point, state, model, range(60))
        assert workload.loss(model, workload.batch(1000, n=200)) < 0.7 * before
        assert state['optimizer'].skipped_steps == 0
        assert ('preconditioner' in state) == (approximation != 'none')

    @pytest.mark.parametrize(
        'changes',
        [
            {'reduce_normalisation': 'sum_inputs'},
            {'label_smoothing': 0.1},
            {'grad_clip': 0.5},
            {'dropout_rate': 0.1},
            {'max_factor_dimension': 8},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_other_settings(self, changes):
        workload = TinyWorkload()
        point = hyperparameters(learning_rate=0.03, **changes)
        state, model = init(workload, point)
        before = workload.loss(model, workload.batch(1000, n=200))
        train(workload, point, state, model, range(60))
        assert workload.loss(model, workload.batch(1000, n=200)) < 0.7 * before

    @pytest.mark.parametrize(
        'loss_type',
        [LossType.MEAN_SQUARED_ERROR, LossType.SIGMOID_CROSS_ENTROPY],
        ids=lambda loss_type: loss_type.name,
    )
    def test_other_likelihoods(self, loss_type):
        workload = TinyWorkload(loss_type)
        point = hyperparameters(learning_rate=0.03, fisher_type='monte_carlo')
        state, model = init(workload, point)
        before = workload.loss(model, workload.batch(1000, n=200))
        train(workload, point, state, model, range(60))
        assert workload.loss(model, workload.batch(1000, n=200)) < 0.8 * before

    def test_zero_initialised_head(self):
        workload = TinyWorkload(zero_head=True)
        point = hyperparameters(learning_rate=0.03)
        state, model = _run(workload, point, steps=1)
        assert _with_both_inverses(state) == {'head'}
        state, model = train(workload, point, state, model, range(1, 60))
        assert _with_both_inverses(state) == {'first', 'second', 'head'}
        assert workload.loss(model, workload.batch(1000, n=200)) < 1.0

    def test_self_tuning_ruleset(self):
        """No hyperparameters at all."""
        workload = TinyWorkload()
        _, model = _run(workload, None, steps=3)
        assert all(torch.isfinite(p).all() for p in model.parameters())

    def test_padding_examples_change_nothing(self):
        workload = TinyWorkload(dtype=torch.float64)
        point = hyperparameters(fisher_type='empirical')
        padded = [workload.batch(step, weighted=True) for step in range(5)]
        plain = []
        for batch in padded:
            real = batch['weights'].bool()
            plain.append({k: v[real] for k, v in batch.items() if k != 'weights'})
        left = _values(_run(workload, point, 5, batches=padded)[1])
        right = _values(_run(workload, point, 5, batches=plain)[1])
        for name in left:
            torch.testing.assert_close(left[name], right[name])

    @pytest.mark.parametrize('fisher_type', ['empirical', 'monte_carlo'])
    def test_no_layer_has_kronecker_factors(self, fisher_type):
        point = hyperparameters(max_factor_dimension=1, fisher_type=fisher_type)
        workload = TinyWorkload()
        state, model = _run(workload, point, 30)
        assert state['preconditioner'].layers == []
        untrained, _ = workload.init_model_fn((0, 1))
        batch = workload.batch(1000, n=200)
        assert workload.loss(model, batch) < workload.loss(untrained, batch)

    def test_a_batch_without_examples(self):
        """One process may get the empty last part of some data."""
        workload = TinyWorkload()
        batches = [workload.batch(n=0)]
        trained = [
            _values(_run(workload, hyperparameters(**changes), 1, batches=batches)[1])
            for changes in ({}, {'approximation': 'none'})
        ]
        _assert_equal(*trained)

    def test_nothing_to_train(self):
        workload = TinyWorkload()
        model, _ = workload.init_model_fn((0, 1))
        model.requires_grad_(False)
        with pytest.raises(ValueError, match='no parameter to train'):
            init(workload, hyperparameters(), model)


class TestIntervals:
    def test_statistics_and_inverses(self):
        point = hyperparameters(statistics_interval=3, inverse_interval=2)
        state, model = _run(TinyWorkload(), point, steps=7)
        counters = state['preconditioner'].counters
        assert counters['factor_updates'] == len([0, 1, 3, 6])
        assert counters['inverse_updates'] == len([0, 1, 2, 4, 6])
        # One forward pass a step, watched on statistics steps alone.
        assert model.hooks_seen == [1, 1, 0, 1, 0, 0, 1]
        for module in model.modules():
            assert not module._forward_hooks

    def test_no_hooks_without_an_approximation(self):
        _, model = _run(TinyWorkload(), hyperparameters(approximation='none'), 3)
        assert model.hooks_seen == [0, 0, 0]

    def test_no_hooks_are_left_by_an_error(self):
        class Failing(TinyWorkload):
            def loss_fn(self, **kwargs):
                raise RuntimeError('no loss')

        workload, point = Failing(), hyperparameters()
        state, model = init(workload, point)
        with pytest.raises(RuntimeError, match='no loss'):
            train(workload, point, state, model, [0])
        assert not model.first._forward_hooks


class TestWrappedModels:
    def _compare(self, wrap, **changes):
        workload = TinyWorkload()
        point = hyperparameters(statistics_interval=2, **changes)
        expected_state, expected = _run(workload, point)
        model, _ = workload.init_model_fn((0, 1))
        state, wrapped = _run(workload, point, model=wrap(model))
        for name, value in _values(expected).items():
            torch.testing.assert_close(_values(model)[name], value)
        assert isinstance(wrapped, type(wrap(model)))
        for key in state:
            assert state[key].state_dict().keys() == (
                expected_state[key].state_dict().keys()
            )
        # Names without the wrapper's prefix: a checkpoint fits the plain model.
        assert _with_both_inverses(state) == {'first', 'second', 'head'}
        expected_state['preconditioner'].load_state_dict(
            state['preconditioner'].state_dict()
        )
        expected_state['optimizer'].load_state_dict(state['optimizer'].state_dict())

    def test_data_parallel(self):
        self._compare(nn.DataParallel)

    @pytest.mark.parametrize('fisher_type', ['empirical', 'monte_carlo'])
    def test_compiled(self, fisher_type):
        self._compare(
            lambda model: torch.compile(model, backend='eager'), fisher_type=fisher_type
        )

    def test_compiled_data_parallel(self):
        self._compare(
            lambda model: torch.compile(nn.DataParallel(model), backend='eager')
        )


class PairWorkload(TinyWorkload):
    """Returns its logits with something else, as speech models do."""

    def model_fn(self, *args, **kwargs):
        logits, model_state = super().model_fn(*args, **kwargs)
        return (logits, torch.zeros(len(logits))), model_state

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        return super().loss_fn(
            label_batch, logits_batch[0], mask_batch, label_smoothing
        )


@pytest.mark.parametrize(
    'workload',
    [
        TinyWorkload(LossType.MEAN_ABSOLUTE_ERROR),
        TinyWorkload(LossType.CTC_LOSS),
        PairWorkload(LossType.CTC_LOSS),
    ],
    ids=['MAE', 'CTC', 'CTC, pair of outputs'],
)
def test_losses_without_a_label_distribution(workload, caplog, monkeypatch):
    """They train with the empirical Fisher, and it is said once."""
    # absl counts over the whole process what it logs once.
    monkeypatch.setattr('absl.logging._log_counter_per_token', {})
    expected = _values(_run(workload, hyperparameters(fisher_type='empirical'))[1])
    with caplog.at_level(logging.WARNING):
        found = _values(_run(workload, hyperparameters(fisher_type='monte_carlo'))[1])
    _assert_equal(found, expected)
    (message,) = [record.getMessage() for record in caplog.records]
    assert workload.loss_type.name in message
    assert 'empirical Fisher' in message


class TestFisherTypes:
    def test_they_differ(self):
        points = [
            hyperparameters(fisher_type=kind) for kind in ('empirical', 'monte_carlo')
        ]
        left, right = (_values(_run(TinyWorkload(), point)[1]) for point in points)
        assert not torch.equal(left['first.weight'], right['first.weight'])

    def test_training_labels_do_not_enter_the_sampled_one(self):
        """Other targets, same factors: only the first-order part sees labels."""
        workload, point = TinyWorkload(), hyperparameters(fisher_type='monte_carlo')
        batch = workload.batch(0)
        other = {**batch, 'targets': (batch['targets'] + 1) % 4}
        left, right = (
            _run(workload, point, 1, batches=[b])[0]['preconditioner'].state_dict()
            for b in (batch, other)
        )
        for name in left['layers']:
            for side in 'ab':
                averages = [
                    found['layers'][name][side]['moving_average']
                    for found in (left, right)
                ]
                assert torch.equal(*averages)

    def test_sampling_does_not_shift_the_dropout(self):
        """What is dropped in a step follows from its key alone."""
        seen = []

        class Recording(TinyWorkload):
            def loss_fn(self, label_batch, logits_batch, **kwargs):
                seen.append(logits_batch.detach().clone())
                return super().loss_fn(label_batch, logits_batch, **kwargs)

        for changes in (
            {'approximation': 'none'},
            {'fisher_type': 'empirical'},
            {'fisher_type': 'monte_carlo'},
        ):
            point = hyperparameters(dropout_rate=0.5, learning_rate=1e-12, **changes)
            _run(Recording(), point, 3)
        for step in range(3):
            for other in (seen[3 + step], seen[6 + step]):
                torch.testing.assert_close(other, seen[step])

    def test_labels_and_dropout_draw_different_numbers(self, monkeypatch):
        """Else what is dropped and what is sampled are correlated."""
        seeds = []
        sample = labels.sampled_output_gradient

        def recording(likelihood, outputs, batch, generator, scale):
            seeds.append((generator.initial_seed(), torch.initial_seed()))
            return sample(likelihood, outputs, batch, generator, scale)

        monkeypatch.setattr(labels, 'sampled_output_gradient', recording)
        _run(TinyWorkload(), hyperparameters(fisher_type='monte_carlo'), 1)
        ((of_labels, of_dropout),) = seeds
        assert of_labels != of_dropout


def _through_file(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize('fisher_type', ['empirical', 'monte_carlo'])
@pytest.mark.parametrize('rule', ['nadamw', 'grafted', 'spectral'])
class TestResume:
    @pytest.mark.parametrize(('at', 'stride'), [(1, 1), (3, 1), (3, 3), (4, 1)])
    def test_bit_for_bit(self, fisher_type, rule, at, stride):
        """Between statistics, between inverses, with dropout."""
        workload = TinyWorkload()
        point = hyperparameters(
            fisher_type=fisher_type,
            first_order_rule=rule,
            dropout_rate=0.3,
            statistics_interval=2,
            statistics_stride=stride,
            inverse_interval=3,
        )
        state, model = _run(workload, point, steps=at)
        saved = _through_file(
            {
                'model': model.state_dict(),
                'optimizer': {key: value.state_dict() for key, value in state.items()},
            }
        )
        state, model = train(workload, point, state, model, range(at, 10))

        torch.manual_seed(99)
        new_state, new_model = init(workload, point)
        new_model.load_state_dict(saved['model'])
        for key, value in saved['optimizer'].items():
            new_state[key].load_state_dict(value)
        train(workload, point, new_state, new_model, range(at, 10))
        _assert_equal(_values(new_model), _values(model))
        counters = state['preconditioner'].counters
        assert new_state['preconditioner'].counters == counters


class TestReproducibility:
    point = hyperparameters(dropout_rate=0.5, fisher_type='monte_carlo')

    def _step(self, rng, global_seed):
        workload = TinyWorkload()
        state, model = init(workload, self.point)
        torch.manual_seed(global_seed)
        pytorch_submission.update_params(
            workload,
            model,
            None,
            None,
            self.point,
            workload.batch(),
            workload.loss_type,
            state,
            [],
            0,
            rng,
        )
        return _values(model)

    def test_the_key_decides(self):
        _assert_equal(self._step((1, 2), 0), self._step((1, 2), 1))

    def test_other_keys_differ(self):
        left, right = self._step((1, 2), 0), self._step((1, 3), 0)
        assert not torch.equal(left['first.weight'], right['first.weight'])

    def test_both_parts_of_the_key_count(self):
        """torch's generator for the CPU looks at the lower 32 bits of a seed."""
        left, right = self._step((1, 2), 0), self._step((2, 2), 0)
        assert not torch.equal(left['first.weight'], right['first.weight'])


class TestBadSteps:
    @pytest.mark.parametrize(
        ('fisher_type', 'loss_type'),
        [
            ('empirical', LossType.SOFTMAX_CROSS_ENTROPY),
            ('monte_carlo', LossType.SOFTMAX_CROSS_ENTROPY),
            ('monte_carlo', LossType.SIGMOID_CROSS_ENTROPY),
        ],
        ids=['empirical', 'softmax', 'sigmoid'],
    )
    @pytest.mark.parametrize('step', [1, 2], ids=['statistics', 'plain'])
    def test_input_that_is_not_a_number(self, fisher_type, loss_type, step):
        """Parameters and factors stay, and the run goes on."""
        workload = TinyWorkload(loss_type)
        point = hyperparameters(
            fisher_type=fisher_type, statistics_interval=3, approximation='expand'
        )
        state, model = _run(workload, point, steps=step)
        before = _values(model)
        batches = {s: workload.batch(s) for s in range(8)}
        batches[step]['inputs'][0, 0, 0] = float('nan')
        state, model = train(workload, point, state, model, [step], batches)
        _assert_equal(_values(model), before)
        assert state['optimizer'].skipped_steps == 1
        skipped = state['preconditioner'].counters['skipped_statistics']
        assert (skipped > 0) == (step == 1)
        train(workload, point, state, model, range(step + 1, 8), batches)
        assert all(torch.isfinite(p).all() for p in model.parameters())
        assert state['optimizer'].skipped_steps == 1


class TestRestOfTheContract:
    def test_every_value_of_the_state_can_be_saved(self):
        for approximation in ('none', 'reduce'):
            state, _ = init(
                TinyWorkload(), hyperparameters(approximation=approximation)
            )
            for value in state.values():
                assert hasattr(value, 'state_dict')
                assert hasattr(value, 'load_state_dict')

    def test_mistakes_end_the_run_before_its_first_step(self):
        with pytest.raises(ValueError, match='approximation'):
            init(TinyWorkload(), hyperparameters(approximation='both'))

    def test_prepare_for_eval_changes_nothing_without_averages(self):
        workload, point = TinyWorkload(), hyperparameters()
        state, model = init(workload, point)
        found = pytorch_submission.prepare_for_eval(
            workload, model, None, 'state', point, None, state, [], 3, (0, 1)
        )
        assert found[0] is state
        assert found[1] is model
        assert found[2] == 'state'

    def test_data_selection_takes_the_next_batch(self):
        queue = iter([{'a': 1}, {'b': 2}])
        args = (TinyWorkload(), queue, {}, None, None, None, 0, (0, 1))
        assert pytorch_submission.data_selection(*args) == {'a': 1}
        assert pytorch_submission.data_selection(*args) == {'b': 2}

    def test_model_state_is_handed_through(self):
        workload, point = TinyWorkload(), hyperparameters()
        state, model = init(workload, point)
        *_, model_state = pytorch_submission.update_params(
            workload,
            model,
            None,
            'kept',
            point,
            workload.batch(),
            workload.loss_type,
            state,
            [],
            0,
            (0, 1),
            train_state={'accumulated_submission_time': 1.0},
        )
        assert model_state == 'kept'

    def test_the_model_trains_again_after_an_evaluation(self):
        """Also where `model_fn` only ever enters evaluation mode."""
        workload, point = TinyWorkload(), hyperparameters()

        def model_fn(params, augmented_and_preprocessed_input_batch, **_):
            return params(augmented_and_preprocessed_input_batch['inputs']), None

        workload.model_fn = model_fn
        state, model = init(workload, point)
        model.eval()
        train(workload, point, state, model, [0])
        assert all(module.training for module in model.modules())

    def test_scalars_go_to_the_metrics_logger(self):
        logged = {}
        workload = TinyWorkload()
        workload.attach_metrics_logger(
            types.SimpleNamespace(
                append_scalar_metrics=lambda scalars, step: logged.update(
                    {step: scalars}
                )
            )
        )
        _run(workload, hyperparameters(), 3)
        assert logged.keys() == {0}
        assert logged[0].keys() >= {'loss', 'grad_norm', 'kfac/factor_updates'}
        assert logged[0]['loss'] > 0

    def test_learning_rate_follows_the_schedule(self):
        """At the end of it, nothing moves."""
        workload = TinyWorkload()
        point = hyperparameters(step_hint_factor=0.03)
        state, model = _run(workload, point, steps=3)
        before = _values(model)
        train(workload, point, state, model, [3, 4])
        _assert_equal(_values(model), before)

    def test_weight_decay_follows_the_length_of_the_schedule(self):
        workload = TinyWorkload()
        workload.step_hint = 4000
        ends = [
            _values(_run(workload, hyperparameters(**changes), steps=2)[1])
            for changes in (
                {'weight_decay': 8.0, 'weight_decay_exponent': 1.0},
                {'weight_decay': 2.0},
            )
        ]
        _assert_equal(*ends)


class TestHarness:
    def test_mode_is_of_the_workloads_own_harness(self):
        assert training_mode(TinyWorkload()) is spec.ForwardPassMode.TRAIN

    def test_harness_without_modes(self):
        workload = types.SimpleNamespace(loss_type=TinyModel())
        with pytest.raises(AttributeError, match=r'tiny_workload.*ForwardPassMode'):
            training_mode(workload)

    def test_seeds(self):
        keys = [(0, 0), (0, 1), (1, 0), (-1, 0), (2**31 - 1, 5)]
        seeds = {
            seed_from(key, stream, rank)
            for key in keys
            for stream in ('dropout', 'labels')
            for rank in range(3)
        }
        assert len(seeds) == 30
        assert all(0 <= seed < 2**32 for seed in seeds)
