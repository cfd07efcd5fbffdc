"""The folder of the submission works on its own, wherever it is copied."""

import pathlib
import shutil

import submission
from tests import standalone

FOLDER = pathlib.Path(submission.__file__).parent


def copy(folder, package):
    shutil.copytree(
        FOLDER,
        folder.joinpath(*package.split('.')),
        ignore=shutil.ignore_patterns('__pycache__', '.*_cache'),
    )


def check_report(report, unavailable):
    assert report['losses'][-1] < report['losses'][0]
    assert report['inverse_updates'] == 2
    roots = {name.split('.')[0] for name in report['modules']}
    assert not roots & {*standalone.PROJECT, *unavailable}


def test_a_copy_trains_without_the_rest_of_the_project(tmp_path):
    """As a folder's own package; in JAX, and as an entry, further down."""
    package = 'entry'
    copy(tmp_path, package)
    report = standalone.train(tmp_path, f'{package}.pytorch_submission', 'pytorch')
    check_report(report, ())
    assert f'{package}.pytorch.layers' in report['modules']


def test_a_copy_trains_in_jax_without_pytorch(tmp_path):
    package = 'team.algorithm.kfac_entry'
    copy(tmp_path, package)
    report = standalone.train(
        tmp_path, f'{package}.jax_submission', 'jax', also_without=['torch']
    )
    check_report(report, ['torch'])
    assert f'{package}.jax.layers' in report['modules']
    assert f'{package}.pytorch' not in report['modules']
