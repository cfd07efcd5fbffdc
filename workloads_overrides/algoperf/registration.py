"""Makes this project's workloads known to AlgoPerf's runner by name."""

import dataclasses
import importlib
import sys
import types
from typing import Any

from algoperf.workloads import workloads

from workloads_overrides import registry
from workloads_overrides.runner.errors import RunnerError

_HERE = 'workloads_overrides.algoperf'


@dataclasses.dataclass(frozen=True)
class Variant:
    """A stock workload with some of its methods replaced.

    Attributes:
        stock: Name of AlgoPerf's workload.
        implementations: Framework to the `'module:Class'` whose methods come
            before those of AlgoPerf's class.
    """

    stock: str
    implementations: dict[str, str]


def _variants() -> dict[str, Variant]:
    families = {
        'ogbg': (
            ('ogbg', 'ogbg_gelu', 'ogbg_silu', 'ogbg_model_size'),
            {'pytorch': 'ogbg_pytorch', 'jax': 'ogbg'},
            'Ogbg',
        ),
        'imagenet_vit': (
            (
                'imagenet_vit',
                'imagenet_vit_glu',
                'imagenet_vit_post_ln',
                'imagenet_vit_map',
            ),
            {'pytorch': 'imagenet_vit_pytorch', 'jax': 'imagenet_vit_jax'},
            'ImagenetVit',
        ),
    }
    return {
        f'{stock}_{size}': Variant(
            stock,
            {
                framework: f'{_HERE}.{module}:{size.capitalize()}{class_suffix}'
                for framework, module in modules.items()
            },
        )
        for stocks, modules, class_suffix in families.values()
        for stock in stocks
        for size in ('cpu', 'small')
    }


# `<stock>_cpu` is AlgoPerf's model, `<stock>_small` a small one.
VARIANTS = _variants()


def names() -> list[str]:
    """Returns the names of the workloads that this project adds to AlgoPerf's."""
    return [*VARIANTS, *registry.WORKLOADS]


def workload_class(name: str, framework: str) -> type[Any]:
    """Returns the class of a workload that this project adds.

    Args:
        name: One of `names()`.
        framework: `'pytorch'` or `'jax'`.

    Raises:
        RunnerError: If it has no implementation in this framework.
    """
    if name not in VARIANTS:
        return registry.workload_class(name, framework)
    variant = VARIANTS[name]
    module_name, class_name = variant.implementations[framework].split(':')
    overrides = getattr(importlib.import_module(module_name), class_name)
    stock = stock_class(variant.stock, framework)
    return type(f'{class_name}{stock.__name__}', (overrides, stock), {})


def stock_class(name: str, framework: str) -> type[Any]:
    """Returns AlgoPerf's class of one of its own workloads.

    Args:
        name: Name of a workload of AlgoPerf.
        framework: `'pytorch'` or `'jax'`.
    """
    entry = workloads.WORKLOADS[name]
    found: type[Any] = workloads.import_workload(
        f'{workloads.BASE_WORKLOADS_DIR}{entry["workload_path"]}_{framework}/'
        'workload.py',
        entry['workload_class_name'],
        return_class=True,
    )
    return found


def register(name: str, framework: str) -> None:
    """Lets AlgoPerf's runner find a workload; AlgoPerf's own need nothing.

    Raises:
        RunnerError: If neither AlgoPerf nor this project knows the workload, or it
            has no implementation in this framework.
    """
    if name in workloads.WORKLOADS:
        return
    if name not in names():
        raise RunnerError(
            f'Unknown workload {name!r}. AlgoPerf has: '
            f'{", ".join(sorted(workloads.WORKLOADS))}; this project adds: '
            f'{", ".join(sorted(names()))}.'
        )
    found = workload_class(name, framework)
    # The runner turns the registry's path into the name of a module below
    # AlgoPerf's own, so that is where it has to find the class.
    path = f'{__name__.rpartition(".")[0]}/{name}'
    full_path = f'{workloads.BASE_WORKLOADS_DIR}{path}_{framework}/workload.py'
    module_name = workloads.convert_filepath_to_module(full_path)
    module = types.ModuleType(module_name)
    setattr(module, found.__name__, found)
    sys.modules[module_name] = module
    workloads.WORKLOADS[name] = {
        'workload_path': path,
        'workload_class_name': found.__name__,
    }
