import pytest

from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.submission_framework import check_framework


@pytest.mark.parametrize(
    ('framework', 'other'), [('pytorch', 'jax'), ('jax', 'pytorch')]
)
def test_the_submissions_are_for_one_framework_each(framework, other):
    path = f'submission/{framework}_submission.py'
    check_framework(path, framework)
    message = rf'{path}: .*--framework={framework}, but .*--framework={other}\.'
    with pytest.raises(RunnerError, match=message):
        check_framework(path, other)


@pytest.mark.parametrize(
    ('text', 'is_refused'),
    [
        ('from torch import nn', True),
        ('import torch.nn.functional as F', True),
        ('def init():\n    import torch', True),
        ('import torch\nfrom jax import numpy', False),
        ('from .torch import steps', False),
        ('import torchvision', False),
        ('from . import steps', False),
    ],
)
def test_only_a_file_that_imports_the_other_framework_alone_is_refused(
    tmp_path, monkeypatch, text, is_refused
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'entry.py').write_text(text)
    if is_refused:
        with pytest.raises(RunnerError, match='imports torch and not jax'):
            check_framework('entry.py', 'jax')
    else:
        check_framework('entry.py', 'jax')
