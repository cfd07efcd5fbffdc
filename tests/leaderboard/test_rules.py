import pytest

from leaderboard.rules import check_source


def found(source, framework='pytorch'):
    return [(v.line, v.rule) for v in check_source('submission.py', source, framework)]


VIOLATING = {
    'environment': [
        "import os\nos.environ['XLA_FLAGS'] = ''",
        "import os as system\nsystem.environ.setdefault('A', 'b')",
        'import numpy\nfrom os import environ',
        "import os\ndel os.environ['A']",
        "import os\nos.putenv('A', 'b')",
        "import os\ngetattr(os, 'environ')['A'] = 'b'",
        '\nimport posix',
    ],
    'foreign_import': [
        '\nimport algoperf.spec',
        '\nfrom algoperf import spec',
        '\nfrom workloads_overrides import registry',
        '\nfrom jax import numpy as jnp',
        '\nimport flax.linen as nn',
    ],
    'workload_name': [
        "def update_params(w):\n    return 'ogbg' in str(w)",
        "def f(x):\n    match x:\n        case 'imagenet_vit':\n            return 1",
        "\nLEARNING_RATES = {'wmt': 0.1}",
        '\nLEARNING_RATES = dict(fastmri=0.1)',
        "\nvariant = f'{base}' == b'ogbg_gelu'",
        "class A:\n    _BATCH_SIZES = {'criteo1tb': 1}",
        "def f(w):\n    return type(w).__name__ == 'OgbgWorkload'",
        "def f(w):\n    return w.startswith('librispeech_')",
        "def f(w):\n    return 'algoperf.workloads.wmt' in str(w)",
        'def update_params(w):\n    return _BATCH_SIZES[w] == 512',
        '\nfrom .settings import _BATCH_SIZES',
        'def get_batch_size(name):\n    global seen\n    seen = name',
    ],
    'command_line': [
        '\nfrom absl import flags',
        'import sys\nworkload = sys.argv[1]',
    ],
    'kernel': [
        '\nfrom torch.utils import cpp_extension',
        '\nfrom torch.utils.cpp_extension import load_inline',
        '\nimport triton.language as tl',
        'import torch\ntorch.utils.cpp_extension.load',
        '\nimport numba',
        '\nimport ctypes',
        'import torch\n@torch.library.triton_op("a::b", mutates_args=())\ndef f(): 0',
        'import torch\ntorch.cuda.jiterator._create_jit_fn(code)',
    ],
    'files': [
        "\nwith open('x') as file: data = file.read()",
        '\nimport pathlib',
        'import numpy as np\nnp.load',
        "import torch\ntorch.save({}, 'x')",
        'from torch import load as read\nread(1)',
        '\npath.write_text(1)',
        '\nimport urllib.request',
        "import os\nos.listdir('.')",
        "import gzip\ngzip.open('x')",
        '\nfrom safetensors.torch import load_file',
    ],
    'background_work': [
        '\nimport threading',
        '\nfrom concurrent.futures import ThreadPoolExecutor',
        "import os\nos.system('ls')",
        '\nimport subprocess as s',
        "import os\nos.execv('x', [])",
    ],
    'hidden_code': [
        "\nexec('x = 1')",
        "\n__import__('o' + 's')",
        '\nimport importlib',
        "\nglobals()['x']",
        "\n__builtins__['eval']('1')",
        '\nfrom os import *',
        '\nfrom .helpers import *',
    ],
}
CASES = [(rule, source) for rule, sources in VIOLATING.items() for source in sources]
# Where the violation is not on line 2.
LINES = {VIOLATING['workload_name'][1]: 3}


@pytest.mark.parametrize(('rule', 'source'), CASES)
def test_a_violation_is_found_on_its_line(rule, source):
    assert (LINES.get(source, 2), rule) in found(source)
    assert {r for _, r in found(source)} == {rule}


def test_the_other_framework_depends_on_the_entrys():
    assert found('import torch', 'jax') == [(1, 'foreign_import')]
    assert found('import torch', 'pytorch') == []
    assert found('import jax.experimental.pallas as pl', 'jax') == [(1, 'kernel')]


@pytest.mark.parametrize(
    'source',
    [
        "_BATCH_SIZES = {'ogbg': 512, 'wmt': 128}",
        "_BATCH_SIZES: dict[str, int] = {'ogbg': 512}",
        "def get_batch_size(name):\n    return {'imagenet_vit': 1024}[name]",
        'import os\nrank = os.cpu_count()',
        'import torch\nmodel.eval()\ntorch.compile(model)\nre.compile(1)',
        'from .pytorch import communication, labels\nlabels.load()',
        'def load(self): return self.open(requests=3)',
        "'''The workload ogbg is mentioned here.'''",
        'from .environ import environ\nenviron',
        "raise ValueError('targets as ogbg has them')",
        "_BATCH_SIZES = {'ogbg': 1}\ndef get_batch_size(w): return _BATCH_SIZES[w]",
        "from absl import logging\nlogging.info('x')",
        "getattr(model, '_orig_mod', model)\ntorch.signal\nx.environ",
    ],
)
def test_what_is_allowed(source):
    assert found(source) == []


def test_messages_name_file_line_and_construct():
    (violation,) = check_source('pytorch/a.py', '\nimport threading', 'pytorch')
    assert str(violation).startswith('pytorch/a.py:2: background_work: threading: ')


def test_broken_source_is_reported():
    assert found('x = 1\ndef f(:') == [(2, 'syntax')]
