"""The built-in training loop, with AlgoPerf's rules, flags and files.

`study.run_study` runs what one command line of the runner runs, and
`training_loop.run_trial` runs one training run of a given workload object.
"""
