"""The workloads of the built-in runner, by name.

Modules are imported when a workload is asked for, so listing the names needs
neither data nor the other framework.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from workloads_overrides.runner.errors import RunnerError


@dataclasses.dataclass(frozen=True)
class Entry:
    """A workload: its base workload and where each framework's class is.

    Attributes:
        base: Name of the base workload; its own name unless it is a variant.
        implementations: Framework to `'module:Class'`.
        held_out: Whether it is a variant on which nothing is tuned, of about the base
            workload's size, as AlgoPerf's held-out workloads are.
    """

    base: str
    implementations: Mapping[str, str]
    held_out: bool = False


def _in_both(base: str, class_name: str, held_out: bool = False) -> Entry:
    module = f'workloads_overrides.{base}'
    return Entry(
        base=base,
        implementations={
            framework: f'{module}.{framework}_workload:{class_name}'
            for framework in ('jax', 'pytorch')
        },
        held_out=held_out,
    )


WORKLOADS: dict[str, Entry] = {
    'ogbg_chembl': _in_both('ogbg_chembl', 'OgbgChemblWorkload'),
    'ogbg_chembl_full': _in_both('ogbg_chembl', 'OgbgChemblFullWorkload'),
    'imagenet_vit_fashion_mnist': _in_both(
        'imagenet_vit_fashion_mnist', 'ImagenetVitFashionMnistWorkload'
    ),
    'imagenet_vit_fashion_mnist_wide': _in_both(
        'imagenet_vit_fashion_mnist', 'ImagenetVitFashionMnistWideWorkload'
    ),
    'imagenet_vit_fashion_mnist_s16': _in_both(
        'imagenet_vit_fashion_mnist', 'ImagenetVitFashionMnistS16Workload'
    ),
    # With the changes, and the endings, of AlgoPerf's held-out workloads.
    'ogbg_chembl_gelu': _in_both(
        'ogbg_chembl', 'OgbgChemblGeluWorkload', held_out=True
    ),
    'imagenet_vit_fashion_mnist_glu': _in_both(
        'imagenet_vit_fashion_mnist',
        'ImagenetVitFashionMnistGluWorkload',
        held_out=True,
    ),
}


def _entry(name: str) -> Entry:
    if name not in WORKLOADS:
        raise RunnerError(
            f'Unknown workload {name!r}; there are: {", ".join(sorted(WORKLOADS))}.'
        )
    return WORKLOADS[name]


def base_name(name: str) -> str:
    """Returns the name of the base workload that `name` is a variant of."""
    return _entry(name).base


def is_held_out(name: str) -> bool:
    """Returns whether a workload is a variant on which nothing is tuned."""
    return _entry(name).held_out


def workload_class(name: str, framework: str) -> type[Any]:
    """Imports and returns the class of a workload.

    Args:
        name: Name of the workload.
        framework: `'pytorch'` or `'jax'`.

    Raises:
        RunnerError: If the workload is unknown or has no implementation in this
            framework.
    """
    implementations = _entry(name).implementations
    if framework not in implementations:
        raise RunnerError(
            f'Workload {name!r} has no implementation for framework {framework!r}; '
            f'it has one for: {", ".join(sorted(implementations))}.'
        )
    module_name, class_name = implementations[framework].split(':')
    found: type[Any] = getattr(importlib.import_module(module_name), class_name)
    return found


def load_workload(name: str, framework: str) -> Any:
    """Returns a new object of a workload; arguments as for `workload_class`."""
    return workload_class(name, framework)()
