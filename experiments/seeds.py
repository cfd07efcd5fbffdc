"""The seeds that a command is given."""

from collections.abc import Sequence


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """Returns the seeds, each once.

    Raises:
      ValueError: If one is not a whole number of at least 0, or there is none.
    """
    for text in texts:
        if not text.isdecimal():
            raise ValueError(
                f'--seeds has {text!r}; give whole numbers, as in --seeds=0,1,2.'
            )
    if not texts:
        raise ValueError('--seeds is empty; give at least one, as in --seeds=0.')
    return list(dict.fromkeys(int(text) for text in texts))
