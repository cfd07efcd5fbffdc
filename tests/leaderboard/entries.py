"""Entries for the tests: exported, or written by hand."""

import pytest

from leaderboard.export import DESCRIPTION, SUBMISSION, export_entry
from leaderboard.info import SubmissionInfo
from leaderboard.layout import FRAMEWORKS, RULESETS

# A framework whose submission is not in the checkout has no entry to test.
EACH_FRAMEWORK = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not (SUBMISSION / framework.source).is_file(),
            reason=f'submission/{framework.source} does not exist',
        ),
    )
    for name, framework in FRAMEWORKS.items()
]


def info(framework='pytorch', ruleset='external', **changes):
    fields = {
        'submission_name': 'K-FAC',
        'submission_folder': 'kfac_entry',
        'authors': 'A. Author, B. Müller',
        'affiliations': '',
        'version': '1.0',
        'ruleset': RULESETS[ruleset].title,
        'framework': FRAMEWORKS[framework].title,
        'description': DESCRIPTION,
    }
    return SubmissionInfo(**{**fields, **changes})


def export(folder, framework='pytorch', ruleset='external', **changes):
    return export_entry(info(framework, ruleset), framework, ruleset, folder, **changes)


SUBMISSION_SOURCE = """
_BATCH_SIZES = {'ogbg': 512}


def get_batch_size(workload_name):
    return _BATCH_SIZES.get(workload_name, 128)


def init_optimizer_state(workload, model_params, model_state, hyperparameters, rng):
    return {}


def update_params(workload, current_param_container, current_params_types, model_state,
                  hyperparameters, batch, loss_type, optimizer_state, eval_results,
                  global_step, rng, train_state=None):
    return optimizer_state, current_param_container, model_state


def prepare_for_eval(workload, current_param_container, current_params_types,
                     model_state, hyperparameters, loss_type, optimizer_state,
                     eval_results, global_step, rng):
    return optimizer_state, current_param_container, model_state


def data_selection(workload, input_queue, optimizer_state, current_param_container,
                   model_state, hyperparameters, global_step, rng):
    return next(input_queue)
"""


def by_hand(folder, files):
    """Writes a valid self-tuning entry in PyTorch, then changes or adds files."""
    entry = folder / 'by_hand'
    entry.mkdir()
    (entry / '__init__.py').touch()
    (entry / 'submission.py').write_text(SUBMISSION_SOURCE)
    info('pytorch', 'self', submission_folder='by_hand').write(
        entry / 'submission_info.yml'
    )
    for name, text in files.items():
        (entry / name).write_text(text)
    return entry
