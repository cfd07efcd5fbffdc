"""The error that the command reports without a traceback."""


class DataError(Exception):
    """A mistake in the arguments or in what is already on disk."""
