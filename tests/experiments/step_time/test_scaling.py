import pytest

from experiments.step_time import scaling
from experiments.step_time.breakdown import PARTS
from experiments.step_time.results import Results
from experiments.step_time.scaling import SWEEPS, Size, fitted_exponent


@pytest.mark.parametrize('exponent', [0.0, 1.0, 2.5])
def test_exponent_of_a_power_is_found(exponent):
    sizes = SWEEPS['width']
    seconds = [0.003 * size**exponent for size in sizes]
    assert fitted_exponent(sizes, seconds) == pytest.approx(exponent, abs=1e-3)


def test_no_exponent_without_positive_times():
    assert fitted_exponent([1, 2], [0.1, -0.01]) is None


def test_each_sweep_is_over_a_factor_of_8():
    assert set(SWEEPS) == {'width', 'depth', 'batch', 'positions'}
    assert all(values[-1] >= 8 * values[0] for values in SWEEPS.values())


@pytest.mark.parametrize('framework', ['pytorch', 'jax'])
@pytest.mark.parametrize('positions', SWEEPS['positions'])
def test_positions_are_the_tokens_of_the_model(framework, positions):
    size = Size(positions=positions).workload(framework).model_size
    assert (28 // size.patch_size) ** 2 == positions
    assert 28 % size.patch_size == 0


def test_parts_at_one_size():
    size = Size(width=16, depth=1, batch=4, positions=16)
    seconds = scaling.part_seconds('pytorch', size, rounds=1)
    assert set(seconds) == {
        *(part for part in PARTS if part not in ('factors', 'rest')),
        'factors, reduce',
        'factors, expand',
    }
    assert min(seconds.values()) > 0


def test_a_sweep_measures_each_size_once(tmp_path, monkeypatch):
    measured = []

    def part_seconds(framework, size, rounds):
        assert (framework, rounds) == ('pytorch', 2)
        measured.append(size)
        return {'factors': float(size.width)}

    monkeypatch.setattr(scaling, 'part_seconds', part_seconds)
    results = Results.open(tmp_path / 'results.json', {})
    sweeps = {'width': (8, 64), 'depth': (1,)}
    for _ in range(2):
        scaling.measure_sweeps('pytorch', sweeps, 2, results)
        assert scaling.measured_sweeps(sweeps, results) == {
            'width': {'factors': [8.0, 64.0]},
            'depth': {'factors': [64.0]},
        }
    assert measured == [Size(width=8), Size(width=64), Size(depth=1)]


def test_a_report_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, 'part_seconds', None)
    results = Results.open(tmp_path / 'results.json', {})
    for swept, values in SWEEPS.items():
        for value in values:
            size = {'factors, expand': 1e-3 * value**2, 'inverses': 0.01}
            results.ensure(f'{swept} {value}', lambda size=size: size)
    table = scaling.report(results, 'pytorch')
    (row,) = (line for line in table.splitlines() if line.startswith('factors, expand'))
    assert [cell.strip() for cell in row.split('|')[1:]] == ['2.00'] * 4
    assert results.path.with_suffix('.png').stat().st_size > 0

    del results.parts['depth 4']
    with pytest.raises(ValueError, match="lacks 'depth 4'; measure it, without --rep"):
        scaling.report(results, 'pytorch')
