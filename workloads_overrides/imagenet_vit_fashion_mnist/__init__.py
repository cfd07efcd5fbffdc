"""Vision transformer on Fashion-MNIST: the offline stand-in for imagenet_vit."""
