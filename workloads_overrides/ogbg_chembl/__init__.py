"""A molecule workload that works offline, in place of AlgoPerf's ogbg."""
