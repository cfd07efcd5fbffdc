"""How mlcommons/submissions_algorithms lays out an entry.

An entry is one folder, `submissions/<tuning folder>/<name>/`, for one framework::

    __init__.py
    submission.py               AlgoPerf's functions
    submission_info.yml         name, authors, ruleset, framework, description
    requirements.txt            packages beyond AlgoPerf's own
    tuning_search_space.json    external ruleset only
    ...                         modules that submission.py imports relatively
"""

import dataclasses
from collections.abc import Mapping

SUBMISSION_FILE = 'submission.py'
INFO_FILE = 'submission_info.yml'
REQUIREMENTS_FILE = 'requirements.txt'
SEARCH_SPACE_FILE = 'tuning_search_space.json'


@dataclasses.dataclass(frozen=True)
class Framework:
    """What an entry for one framework may build on.

    Attributes:
      title: As `submission_info.yml` spells it.
      source: File in `submission/` that becomes `submission.py`.
      packages: Import names of the packages that AlgoPerf installs for it.
    """

    title: str
    source: str
    packages: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Ruleset:
    """What an entry under one tuning ruleset looks like.

    Attributes:
      title: As `submission_info.yml` spells it.
      folder: Folder of its entries in `submissions/`.
      has_search_space: Whether an entry brings a search space.
    """

    title: str
    folder: str
    has_search_space: bool


FRAMEWORKS: Mapping[str, Framework] = {
    'pytorch': Framework(
        'PyTorch', 'pytorch_submission.py', frozenset({'torch', 'torchvision'})
    ),
    'jax': Framework(
        'JAX',
        'jax_submission.py',
        frozenset({'jax', 'jaxlib', 'flax', 'optax', 'chex', 'jraph', 'ml_dtypes'}),
    ),
}

RULESETS: Mapping[str, Ruleset] = {
    'external': Ruleset('external', 'external_tuning', has_search_space=True),
    'self': Ruleset('self-tuning', 'self_tuning', has_search_space=False),
}

# AlgoPerf installs these whatever the framework.
SHARED_PACKAGES = frozenset({'absl', 'numpy', 'pandas'})

# The distributions behind these packages whose name differs from the import name.
DISTRIBUTIONS: Mapping[str, str] = {'absl': 'absl-py', 'ml_dtypes': 'ml-dtypes'}


def provided_distributions() -> frozenset[str]:
    """Returns the distributions that AlgoPerf pins, names normalised."""
    packages = SHARED_PACKAGES.union(*(f.packages for f in FRAMEWORKS.values()))
    return frozenset(DISTRIBUTIONS.get(name, name) for name in packages)


# Packages that are not there where an entry runs, or that it must not need.
FOREIGN_PACKAGES = frozenset(
    {
        'algoperf',
        'experiments',
        'leaderboard',
        'submission',
        'tests',
        'workloads_overrides',
    }
)

# AlgoPerf's base workloads; an entry runs on all of them.
BASE_WORKLOADS = (
    'criteo1tb',
    'fastmri',
    'finewebedu_lm',
    'imagenet_resnet',
    'imagenet_vit',
    'librispeech_conformer',
    'librispeech_deepspeech',
    'ogbg',
    'wmt',
)

# The variants of these that AlgoPerf registers, and its workloads for development.
OTHER_WORKLOADS = (
    'cifar',
    'criteo1tb_embed_init',
    'criteo1tb_layernorm',
    'criteo1tb_resnet',
    'criteo1tb_test',
    'fastmri_layernorm',
    'fastmri_model_size',
    'fastmri_tanh',
    'imagenet_resnet_gelu',
    'imagenet_resnet_large_bn_init',
    'imagenet_resnet_silu',
    'imagenet_vit_glu',
    'imagenet_vit_map',
    'imagenet_vit_post_ln',
    'librispeech_conformer_attention_temperature',
    'librispeech_conformer_gelu',
    'librispeech_conformer_layernorm',
    'librispeech_deepspeech_no_resnet',
    'librispeech_deepspeech_norm_and_spec_aug',
    'librispeech_deepspeech_tanh',
    'mnist',
    'ogbg_gelu',
    'ogbg_model_size',
    'ogbg_silu',
    'wmt_attention_temp',
    'wmt_glu_tanh',
    'wmt_post_ln',
)

WORKLOAD_NAMES = frozenset(BASE_WORKLOADS + OTHER_WORKLOADS)
