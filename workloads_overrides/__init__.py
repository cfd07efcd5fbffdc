"""Workloads with AlgoPerf's contract that need no download, and a runner for them."""
