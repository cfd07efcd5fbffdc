"""Figures 1 and 2 of the paper."""

import json

import matplotlib.image
import pytest

from experiments import exactness


@pytest.fixture(scope='module')
def output_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp('exactness') / 'new folder'
    exactness.reproduce(path)
    return path


@pytest.fixture(scope='module')
def relative_errors(output_dir):
    return json.loads((output_dir / 'relative_errors.json').read_text())


@pytest.mark.parametrize('setting', exactness.SETTINGS)
def test_each_approximation_is_exact_in_its_own_setting(relative_errors, setting):
    errors = relative_errors[setting]
    other = 'reduce' if setting == 'expand' else 'expand'
    assert errors.keys() == {'expand', 'reduce'}
    assert errors[setting] <= 1e-12
    assert 0.2 < errors[other] < 2.0


@pytest.mark.parametrize(
    'name', ['figure_1_expand_setting.png', 'figure_2_reduce_setting.png']
)
def test_figures_are_images(output_dir, name):
    height, width, _ = matplotlib.image.imread(output_dir / name).shape
    assert min(height, width) >= 600


@pytest.mark.parametrize('setting', exactness.SETTINGS)
def test_matrices_are_blocks_of_one_layer(setting):
    matrices = exactness.compute_matrices(setting)
    assert {tuple(matrix.shape) for matrix in matrices.values()} == {(64, 64)}
