"""The folder that `--data_dir` names."""

import pathlib


def existing_folder(data_dir: str | pathlib.Path | None) -> pathlib.Path | None:
    """Returns the folder of a data set, or None where none is given.

    Args:
        data_dir: The folder, in which `~` stands for the home directory. None or the
            empty string for none; AlgoPerf's runner can pass no None.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not data_dir:
        return None
    folder = pathlib.Path(data_dir).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f'data_dir {data_dir}: there is no such folder. Correct it, or leave it '
            'out to use the committed data.'
        )
    return folder
