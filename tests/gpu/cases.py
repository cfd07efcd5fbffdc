"""What is trained on both a CPU and a GPU."""

from tests.workloads_overrides import small_models

STEPS = 12
HYPERPARAMETERS = {
    **small_models.HYPERPARAMETERS,
    'grad_clip': None,
    'inverse_interval': 5,
    'averaging_power': 4.0,
}
# Model, approximation, Fisher.
CASES = [
    (model, approximation, fisher_type)
    for model in ('gnn', 'vit')
    for approximation, fisher_type in (
        ('none', 'empirical'),
        ('expand', 'empirical'),
        ('reduce', 'monte_carlo'),
    )
]
