"""Sizes at which the offline workloads' models train in a moment, and how."""

from workloads_overrides.imagenet_vit_fashion_mnist.workload import ModelSize

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
    'grad_clip': 0.5,
    'statistics_interval': 5,
    'inverse_interval': 10,
}


class SmallGNN:
    hidden_dims = (16,)
    latent_dim = 16
    num_message_passing_steps = 2


class SmallViT:
    model_size = ModelSize(width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=7)
