"""Time to the target of K-FAC and its rivals, by AlgoPerf's protocol."""
