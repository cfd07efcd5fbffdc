"""What is trained on both a CPU and a GPU."""

STEPS = 12
BATCH_SIZE = 12
HYPERPARAMETERS = {
    'learning_rate': 1e-2,
    'one_minus_beta1': 0.1,
    'beta2': 0.95,
    'weight_decay': 0.2,
    'warmup_factor': 0.05,
    'step_hint_factor': 0.1,
    'dropout_rate': 0.0,
    'label_smoothing': 0.1,
    'statistics_interval': 5,
    'inverse_interval': 5,
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
