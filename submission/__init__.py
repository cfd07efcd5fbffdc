"""K-FAC-expand and K-FAC-reduce as an AlgoPerf submission.

Self-contained: every import inside is relative or from an installed package, so
the folder can be copied anywhere, for instance into a leaderboard entry.
"""
