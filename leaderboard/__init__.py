"""Writes and checks entries for the leaderboard of AlgoPerf.

The leaderboard is the repository mlcommons/submissions_algorithms.
"""
