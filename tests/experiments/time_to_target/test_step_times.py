import dataclasses

import pytest

from experiments import trials
from experiments.step_seconds import StepSeconds
from experiments.time_to_target import step_times
from experiments.time_to_target.methods import METHODS, RESULTS
from experiments.time_to_target.step_times import StepTimes


@dataclasses.dataclass
class _Run:
    """Compiles in steps 0 and 2, and takes longer in the round that warms up."""

    seconds: float
    compiles: bool
    compilation: dict[int, float] = dataclasses.field(default_factory=dict)

    def take_steps(self, steps):
        if self.compiles and steps[0] == 0:
            self.compilation = {0: 1.5, 2: 1.5}
        return self.seconds if steps[0] >= 10 else 100.0


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Measures methods that take so many seconds; negative ones compile."""

    def run(rounds=2, **seconds):
        runs = {
            METHODS[name]: _Run(abs(value), compiles=value < 0)
            for name, value in seconds.items()
        }
        monkeypatch.setattr(
            step_times, '_start', lambda workload, framework, method: runs[method]
        )
        methods = {name: METHODS[name] for name in seconds if name != 'nadamw'}
        step_times.measure('ogbg_chembl', 'jax', methods, tmp_path, rounds)
        return step_times.load(tmp_path)

    return run


def test_measures_steps_and_compilation(tmp_path, measure):
    assert step_times.load(tmp_path) == StepTimes({}, {})
    found = measure(nadamw=0.1, kfac_expand=-0.2)
    assert found.scales == {}
    assert found.costs == {
        'nadamw': StepSeconds(0.1),
        'kfac_expand': StepSeconds(0.2, 3.0),
    }


def test_what_is_measured_again_leaves_the_rest(tmp_path, measure):
    measure(nadamw=0.1, kfac_expand=-0.2, kfac_reduce=0.3, soap=0.4)
    first = (tmp_path / 'step_times.json').read_text()
    # The machine has become slower; NAdamW, not asked for, shows by how much.
    found = measure(nadamw=0.2, soap=0.6)
    assert found.costs == {
        'nadamw': StepSeconds(0.2),
        'kfac_expand': StepSeconds(0.4, 6.0),
        'kfac_reduce': StepSeconds(0.6),
        'soap': StepSeconds(0.6),
    }
    assert found.scales == {'kfac_expand': 2.0, 'kfac_reduce': 2.0}
    assert (tmp_path / 'step_times.json').read_text() == first
    found = measure(nadamw=0.1, kfac_expand=0.1)
    assert found.costs['soap'] == StepSeconds(0.3)
    assert found.costs['kfac_expand'] == StepSeconds(0.1)
    assert found.scales == {'kfac_reduce': 1.0, 'soap': 0.5}
    assert len(list(tmp_path.iterdir())) == 3


def test_times_of_another_machine_are_not_mixed(measure, monkeypatch):
    found = measure(nadamw=0.1)
    monkeypatch.setattr(trials, 'machine', lambda framework: {'cores': 96})
    with pytest.raises(ValueError, match='another machine'):
        measure(nadamw=0.2)
    assert found.costs == {'nadamw': StepSeconds(0.1)}


@pytest.mark.parametrize(
    'folder',
    sorted(path.parent for path in RESULTS.glob('*/step_times.json')),
    ids=lambda folder: folder.name,
)
def test_committed_times_are_read(folder):
    assert step_times.load(folder).costs['nadamw'].per_step > 0


def test_cost_until_a_step():
    assert StepSeconds(0.5, 3.0).until(4) == 5.0
