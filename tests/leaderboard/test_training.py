"""An exported entry trains where this project is not there."""

import pytest

from leaderboard.layout import FRAMEWORKS, RULESETS
from tests import standalone
from tests.leaderboard import entries

# With and without hyperparameters, once each.
RULESET = {'pytorch': 'external', 'jax': 'self'}


@pytest.mark.parametrize('framework', entries.EACH_FRAMEWORK)
def test_an_entry_trains_two_steps(tmp_path, framework):
    ruleset = RULESET[framework]
    # The depth that entries have in the repository of the leaderboard.
    package = f'submissions.{RULESETS[ruleset].folder}'
    entry = entries.export(tmp_path.joinpath(*package.split('.')), framework, ruleset)
    name = f'{package}.{entry.name}'
    report = standalone.train(tmp_path, f'{name}.submission', framework)
    first, second, third = report['losses']
    # The warm-up begins with a learning rate of next to nothing.
    assert first == pytest.approx(second, rel=1e-3)
    assert third < second
    modules = set(report['modules'])
    assert f'{name}.{framework}.layers' in modules
    others = {o for o in FRAMEWORKS if o != framework}
    assert not any(m.startswith(f'{name}.{o}') for m in modules for o in others)
