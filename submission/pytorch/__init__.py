"""K-FAC for linear weight-sharing layers in PyTorch."""
