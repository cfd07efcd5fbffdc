r"""Writes the submission as an entry for AlgoPerf's leaderboard.

Example::

    python -m leaderboard.export --framework=pytorch --ruleset=external \
        --name=kfac --output_dir=entries

writes the folder `entries/kfac/` for one framework and ruleset, checks it and
prints what is wrong with it, if anything. `leaderboard.layout` describes the folder.
"""

import pathlib
import shutil
import sys

from absl import flags

from experiments import command
from leaderboard.check import check_entry
from leaderboard.info import SubmissionInfo, check_folder_name
from leaderboard.layout import (
    FRAMEWORKS,
    INFO_FILE,
    REQUIREMENTS_FILE,
    RULESETS,
    SEARCH_SPACE_FILE,
    SUBMISSION_FILE,
)
from leaderboard.modules import needed_files
from leaderboard.requirements import NOTHING_MORE
from leaderboard.search_space import check_hyperparameters

_ROOT = pathlib.Path(__file__).parent.parent
SUBMISSION = _ROOT / 'submission'
SEARCH_SPACE = _ROOT / SEARCH_SPACE_FILE

TITLE = 'K-FAC for weight sharing'
AUTHORS = 'The authors of K-FAC for AlgoPerf'
VERSION = '1.0'
DESCRIPTION = (
    'K-FAC-expand and K-FAC-reduce for linear weight-sharing layers '
    '([Eschenhagen et al., 2023](https://arxiv.org/abs/2311.00636)): '
    'Kronecker-factored curvature, renewed every few steps, preconditions the gradient '
    'for NAdamW or is the metric of steepest descent under the spectral norm.'
)


def export_entry(
    info: SubmissionInfo,
    framework: str,
    ruleset: str,
    output_dir: pathlib.Path,
    search_space: pathlib.Path = SEARCH_SPACE,
    *,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes an entry.

    Args:
      info: What `submission_info.yml` says; its `submission_folder` names the entry.
      framework: `pytorch` or `jax`.
      ruleset: `external` or `self`.
      output_dir: Folder in which the entry becomes a folder.
      search_space: The search space of an entry under the external ruleset.
      overwrite: Whether to replace an entry of this name.

    Returns:
      Folder of the entry.

    Raises:
      FileExistsError: If there is an entry and it is not to be replaced.
      FileNotFoundError: If the framework's submission does not exist.
      ValueError: If the name cannot be that of a module, or the submission does not
        accept the search space.
    """
    check_folder_name(info.submission_folder)
    source = FRAMEWORKS[framework].source
    files = needed_files(SUBMISSION, source)
    needs_search_space = RULESETS[ruleset].has_search_space
    if needs_search_space:
        check_hyperparameters(search_space)
    entry = output_dir / info.submission_folder
    if entry.exists():
        if not overwrite:
            raise FileExistsError(
                f'{entry} exists; use --overwrite to replace it, or another --name.'
            )
        if not (entry / INFO_FILE).is_file():
            raise FileExistsError(
                f'{entry} has no {INFO_FILE}, so it is no entry and stays; use another '
                '--name.'
            )
        shutil.rmtree(entry)
    for file in files:
        target = entry / (SUBMISSION_FILE if file == source else file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SUBMISSION / file, target)
    if needs_search_space:
        shutil.copyfile(search_space, entry / SEARCH_SPACE_FILE)
    info.write(entry / INFO_FILE)
    title = FRAMEWORKS[framework].title
    (entry / REQUIREMENTS_FILE).write_text(
        NOTHING_MORE.format(title=title), encoding='utf-8'
    )
    return entry


def _define_flags() -> None:
    flags.DEFINE_enum('framework', None, list(FRAMEWORKS), 'Framework.', required=True)
    flags.DEFINE_enum('ruleset', None, list(RULESETS), 'Ruleset.', required=True)
    flags.DEFINE_string('name', None, "Name of the entry's folder.", required=True)
    flags.DEFINE_string('output_dir', 'entries', 'Where the folder goes.')
    flags.DEFINE_string(
        'tuning_search_space', str(SEARCH_SPACE), 'Search space (external ruleset).'
    )
    flags.DEFINE_bool('overwrite', False, 'Replace an entry of this name.')
    flags.DEFINE_string('submission_name', TITLE, 'Name on the leaderboard.')
    flags.DEFINE_string('authors', AUTHORS, 'Names, separated by commas.')
    flags.DEFINE_string('affiliations', '', 'Of the authors, separated by commas.')
    flags.DEFINE_string('version', VERSION, 'Version of the submission.')
    flags.DEFINE_string('description', DESCRIPTION, 'A sentence on the algorithm.')


def main() -> None:
    """Writes and checks the entry."""
    values = flags.FLAGS
    info = SubmissionInfo(
        submission_name=values.submission_name,
        submission_folder=values.name,
        authors=values.authors,
        affiliations=values.affiliations,
        version=values.version,
        ruleset=RULESETS[values.ruleset].title,
        framework=FRAMEWORKS[values.framework].title,
        description=values.description,
    )
    entry = export_entry(
        info,
        values.framework,
        values.ruleset,
        pathlib.Path(values.output_dir).expanduser().absolute(),
        pathlib.Path(values.tuning_search_space).expanduser(),
        overwrite=values.overwrite,
    )
    violations = check_entry(entry, values.framework, values.ruleset)
    for violation in violations:
        print(violation)
    if violations:
        sys.exit(f'Error: {entry} breaks {len(violations)} rule(s), see above.')
    folder = RULESETS[values.ruleset].folder
    print(
        f'Written and checked: {entry}. On the leaderboard it goes to '
        f'submissions/{folder}/{entry.name}/.'
    )


if __name__ == '__main__':
    _define_flags()
    command.run(main)
