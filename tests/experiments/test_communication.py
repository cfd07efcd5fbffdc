"""What is made of the seconds and bytes of each step."""

import pytest
import torch

from experiments import communication
from submission.pytorch.layers import assign_parameters
from workloads_overrides import registry

GRADIENTS, STATISTICS, INVERSES, PRECONDITIONED, DIRECTIONS = communication._EXCHANGES


def _steps(slowness, inverse_bytes):
    """Two rounds of a statistics step and nine plain ones."""
    return [
        {
            'step': step,
            'seconds': slowness * (5.0 if step % 10 == 0 else 1.0),
            'bytes_sent': {GRADIENTS: 100, PRECONDITIONED: 30}
            | ({STATISTICS: 400, INVERSES: inverse_bytes} if step % 10 == 0 else {}),
        }
        for step in range(3, 23)
    ]


def test_summary():
    found = communication.summarise([_steps(0.001, 50), _steps(0.002, 150)])
    assert found == {
        'milliseconds_plain_step': 2.0,
        'milliseconds_statistics_step': 10.0,
        'milliseconds_mean': 2.8,
        'bytes gradients': 100,
        'bytes factor statistics': 400,
        'bytes inverses of the factors': 100,
        'bytes preconditioned gradients': 30,
        'bytes directions of the spectral rule': 0,
        'bytes_mean': 180,
    }


def test_table():
    summary = communication.summarise([_steps(0.001, 50)])
    text = communication.table(
        [{'world_size': 2, 'method': 'kfac_reduce', **summary}] * 2
    )
    header, _, *rows = text.splitlines()
    assert len(rows) == 2
    assert {len(line) for line in rows} == {len(header)}
    assert [cell.strip() for cell in rows[0].split('|')] == (
        [
            '2',
            'kfac_reduce',
            '1.0',
            '5.0',
            '1.4',
            '0.1',
            '0.4',
            '0.1',
            '0.0',
            '0.0',
            '0.2',
        ]
    )


@pytest.mark.slow
def test_two_processes_send_what_the_sizes_say():
    name = 'ogbg_chembl'
    measured = communication.measure(name, 2, communication.INTERVAL)
    workload = registry.load_workload(name, 'pytorch')
    model, _ = workload.init_model_fn((0, 0))
    layers, _ = assign_parameters(model, 8192)
    halves = [
        layer.groups * dim * (dim + 1) // 2
        for layer in layers
        for dim in (layer.input_dim, layer.output_dim)
    ]
    item = torch.finfo(torch.float32).bits // 8
    gradients = item * sum(p.numel() for p in model.parameters())
    for method, of_ranks in measured.items():
        rows = [communication.summarise([steps]) for steps in of_ranks]
        is_kfac = method != 'nadamw'
        for row in rows:
            assert row[f'bytes {GRADIENTS}'] == gradients
            # With each layer, three counts.
            expected = item * (sum(halves) + 3 * len(layers)) if is_kfac else 0
            assert row[f'bytes {STATISTICS}'] == expected
        # Each factor is sent by one, with its scale and whether it succeeded.
        sent = sum(row[f'bytes {INVERSES}'] for row in rows)
        assert sent == (item * (sum(halves) + 2 * len(halves)) if is_kfac else 0)
        # What is computed for layers, of which each is with one process, goes to all.
        per_layer = DIRECTIONS if method.endswith('spectral') else PRECONDITIONED
        sent = sum(row[f'bytes {per_layer}'] for row in rows)
        in_layers = item * sum(p.numel() for layer in layers for p in layer.parameters)
        if is_kfac:
            # Those of one process are filled up to the length of the other's.
            assert in_layers <= sent < 1.5 * in_layers
        else:
            assert sent == 0
