"""The Markdown table of the sweeps."""

from collections.abc import Sequence

from experiments import text_tables
from experiments.compare import LABELS
from experiments.steps_to_target import format_steps
from experiments.variations.results import Results
from experiments.variations.sensitivity import FACTORS, Sweep


def format_table(sweeps: Sequence[Sweep], results: Results) -> str:
    """Formats a line for each sweep, with a column for each factor.

    Args:
      sweeps: The sweeps.
      results: What has been recorded; a cell stays empty until all seeds are.
    """
    header = [
        'Hyperparameter',
        'Method',
        'Base value',
        *(f'× {label}' for label in FACTORS),
    ]
    rows = []
    for sweep in sweeps:
        runs = [results.runs_of(sweep.points[label]) for label in FACTORS]
        if not any(runs):
            continue
        cells = [format_steps(found, results.target) if found else '' for found in runs]
        name = LABELS[sweep.method]
        rows.append([sweep.name, name, f'{sweep.base_value:g}', *cells])
    return f'{results.describe()}\n\n{text_tables.markdown(header, rows)}'
