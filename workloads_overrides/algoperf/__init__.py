"""What needs an installed AlgoPerf: variants of its workloads, and its own loop."""
