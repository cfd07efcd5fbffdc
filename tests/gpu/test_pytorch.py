"""On a GPU the PyTorch submission computes what it does on a CPU, and never waits."""

import contextlib
import copy

import pytest
import torch

from submission import pytorch_submission
from submission.pytorch import approximations, labels
from submission.pytorch.inverses import damped_inverses
from submission.settings import Settings
from tests.submission.training import prepare_for_eval
from tests.workloads_overrides.small_models import BATCH_SIZE, SmallGNN, SmallViT
from workloads_overrides.imagenet_vit_fashion_mnist import pytorch_workload as vit
from workloads_overrides.ogbg_chembl import pytorch_workload as gnn

from .cases import CASES, HYPERPARAMETERS, STEPS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='PyTorch sees no GPU.'),
]


class GNN(SmallGNN, gnn.OgbgChemblWorkload):
    pass


class ViT(SmallViT, vit.ImagenetVitFashionMnistWorkload):
    pass


MODELS = {'gnn': GNN, 'vit': ViT}


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Run:
    """A training run on a device."""

    def __init__(self, model, device, dtype=torch.float64, **hyperparameters):
        self.point = {**HYPERPARAMETERS, **hyperparameters}
        self.dtype = dtype
        with default_dtype(dtype):
            self.workload = MODELS[model]()
            self.workload._device = torch.device(device)
            self.model, _ = self.workload.init_model_fn([1, 2])
        self.model.to(dtype)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            # A head of zeros would hide all curvature below it.
            for parameter in self.model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter))
        self.state = pytorch_submission.init_optimizer_state(
            self.workload, self.model, None, self.point, [1, 2]
        )
        self.queue = self.workload._build_input_queue([7, 8], 'train', None, BATCH_SIZE)

    def batch(self):
        def convert(value):
            if isinstance(value, tuple):
                return type(value)(*(convert(field) for field in value))
            if value is None or not value.is_floating_point():
                return value
            return value.to(self.dtype)

        return {name: convert(value) for name, value in next(self.queue).items()}

    def step(self, number, batch=None):
        with default_dtype(self.dtype):
            self.state, self.model, _ = pytorch_submission.update_params(
                self.workload,
                self.model,
                None,
                None,
                self.point,
                self.batch() if batch is None else batch,
                self.workload.loss_type,
                self.state,
                [],
                number,
                [1, number],
            )

    def train(self, steps=STEPS):
        for number in range(steps):
            self.step(number)
        return {
            name: parameter.detach().cpu()
            for name, parameter in self.model.named_parameters()
        }


@pytest.fixture
def labels_of_the_cpu(monkeypatch):
    """Generators of the two devices draw different numbers from one seed."""
    sampled = labels.sampled_output_gradient

    def on_cpu(likelihood, outputs, batch, generator, scale=1.0):
        own = torch.Generator().manual_seed(generator.initial_seed())
        weights = batch.get('weights')
        batch = {} if weights is None else {'weights': weights.cpu()}
        gradient = sampled(likelihood, outputs.cpu(), batch, own, scale)
        return gradient.to(outputs.device)

    monkeypatch.setattr(labels, 'sampled_output_gradient', on_cpu)


@pytest.mark.parametrize(('model', 'approximation', 'fisher_type'), CASES)
def test_parameters_after_training_are_those_of_a_cpu(
    model, approximation, fisher_type, labels_of_the_cpu
):
    on_cpu, on_gpu = (
        Run(model, device, approximation=approximation, fisher_type=fisher_type).train()
        for device in ('cpu', 'cuda')
    )
    for name, expected in on_cpu.items():
        difference = torch.linalg.vector_norm(on_gpu[name] - expected)
        assert difference < 1e-7 * torch.linalg.vector_norm(expected), name


@pytest.mark.parametrize(('model', 'approximation', 'fisher_type'), CASES)
def test_labels_drawn_on_a_gpu_train(model, approximation, fisher_type):
    run = Run(
        model,
        'cuda',
        torch.float32,
        approximation=approximation,
        fisher_type=fisher_type,
    )
    before = copy.deepcopy(run.model)
    for value in run.train().values():
        assert torch.isfinite(value).all()
    changed = zip(before.parameters(), run.model.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in changed)
    if approximation != 'none':
        counters = run.state['preconditioner'].counters
        is_statistics_step = Settings.from_hyperparameters(run.point).is_statistics_step
        assert counters['factor_updates'] == sum(map(is_statistics_step, range(STEPS)))
        assert counters['skipped_statistics'] == counters['failed_inverses'] == 0


@pytest.mark.parametrize('rule', ['nadamw', 'momentum', 'grafted', 'spectral'])
@pytest.mark.parametrize('approximation', ['none', 'reduce', 'expand'])
@pytest.mark.parametrize('model', ['gnn', 'vit'])
def test_plain_steps_do_not_wait_for_the_gpu(model, approximation, rule):
    """CUDA itself tells: an operation that waits is an error."""
    run = Run(
        model,
        'cuda',
        torch.float32,
        approximation=approximation,
        first_order_rule=rule,
        statistics_interval=100,
        inverse_interval=100,
        grad_clip=0.5,
        dropout_rate=0.1,
    )
    run.train(2)
    batch = run.batch()
    torch.cuda.set_sync_debug_mode('error')
    try:
        run.step(2, batch)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('approximation', ['reduce', 'expand'])
def test_a_resumed_run_goes_on_as_it_would_have(approximation):
    """The graph network adds up nodes in no fixed order, so this is the other model."""
    runs = [
        Run('vit', 'cuda', torch.float32, approximation=approximation) for _ in range(2)
    ]
    whole, resumed = runs
    for run in runs:
        run.train(6)
        prepare_for_eval(run.state, run.model)
    fresh = Run('vit', 'cuda', torch.float32, approximation=approximation)
    fresh.model.load_state_dict(resumed.model.state_dict())
    for name, part in fresh.state.items():
        part.load_state_dict(copy.deepcopy(resumed.state[name].state_dict()))
    for number in range(6, STEPS):
        batch = whole.batch()
        whole.step(number, batch)
        fresh.step(number, batch)
    for expected, found in zip(
        whole.model.parameters(), fresh.model.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize('dim', [48, 385, 1537])
def test_factors_of_single_precision_invert(dim):
    """What the tensor cores round off a statistic is far below the damping."""
    generator = torch.Generator('cuda').manual_seed(0)
    settings = Settings.from_hyperparameters(HYPERPARAMETERS)
    scales = torch.logspace(0, -3, dim, device='cuda', dtype=torch.float64)
    rows = torch.randn(4096, dim, generator=generator, device='cuda').double() * scales
    # Inputs of a layer have a mean, and so one large eigenvalue.
    rows += scales
    exact = rows.T @ rows / len(rows)
    gram = approximations._gram(rows.float()[:, None]) / len(rows)
    assert torch.linalg.norm(gram[0] - exact) < 1e-3 * torch.linalg.norm(exact)
    (expected,) = damped_inverses([exact[None]], settings.damping)
    (found,) = damped_inverses([gram], settings.damping)
    assert bool(found.succeeded)
    error = torch.linalg.norm(found.matrix - expected.matrix)
    assert error < 1e-2 * torch.linalg.norm(expected.matrix)
