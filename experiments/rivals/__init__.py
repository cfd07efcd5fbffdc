"""The rivals of K-FAC, as one AlgoPerf submission around libraries' optimisers."""
