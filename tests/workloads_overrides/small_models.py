"""Sizes at which the offline workloads' models train in a moment."""

from workloads_overrides.imagenet_vit_fashion_mnist.workload import ModelSize


class SmallGNN:
    hidden_dims = (16,)
    latent_dim = 16
    num_message_passing_steps = 2


class SmallViT:
    model_size = ModelSize(width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=7)
