import dataclasses

from experiments.step_seconds import StepSeconds
from experiments.time_to_target import step_times
from experiments.time_to_target.methods import METHODS


@dataclasses.dataclass
class _Run:
    """Compiles in steps 0 and 2, and takes longer in the round that warms up."""

    seconds: float
    compiles: bool
    compilation: dict[int, float] = dataclasses.field(default_factory=dict)

    def take_step(self, step):
        if self.compiles and step in (0, 2):
            self.compilation[step] = 1.5
        return self.seconds if step >= 10 else 100.0


def test_measures_steps_and_compilation(tmp_path, monkeypatch):
    runs = {
        METHODS['nadamw']: _Run(0.1, compiles=False),
        METHODS['kfac_expand']: _Run(0.2, compiles=True),
    }
    monkeypatch.setattr(
        step_times, '_start', lambda workload, framework, method: runs[method]
    )
    assert step_times.load(tmp_path) == {}
    methods = {name: METHODS[name] for name in ('nadamw', 'kfac_expand')}
    step_times.measure('ogbg_chembl', 'jax', methods, tmp_path, rounds=2)
    assert step_times.load(tmp_path) == {
        'nadamw': StepSeconds(0.1),
        'kfac_expand': StepSeconds(0.2, 3.0),
    }


def test_cost_until_a_step():
    assert StepSeconds(0.5, 3.0).until(4) == 5.0
