"""Methods that take no time, and tasks that take little."""

from experiments.peers.method import STATISTICS_FIRST, Method
from experiments.peers.task import Task
from tests.experiments.step_time.workloads import tiny_workload


def tiny_task(framework):
    return Task(tiny_workload(framework), framework, 16)


class Counting(Method):
    """Its statistics steps take ten seconds, its plain ones two."""

    def __init__(self, name='', log=None, interval=STATISTICS_FIRST, fails_at=None):
        super().__init__(tiny_task('pytorch'))
        self.name, self.log = name, [] if log is None else log
        self.interval, self.fails_at = interval, fails_at
        self.now = 0.0
        self.clock = lambda: self.now

    @property
    def params(self):
        return None

    def step(self, batch):
        if self.steps == self.fails_at:
            raise RuntimeError('no more\nof this')
        self.log.append((self.name, self.next_kind))
        self.now += 2.0 if self.next_kind == 'plain' else 10.0

    def state_bytes(self):
        return 0
