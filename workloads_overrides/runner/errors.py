"""The error for mistakes of the person who starts a run."""


class RunnerError(ValueError):
    """Something given to the runner is wrong; the message says what is allowed."""
