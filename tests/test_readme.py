import dataclasses
import pathlib

import pytest

from submission.settings import Settings

README = (pathlib.Path(__file__).parent.parent / 'README.md').read_text()


@pytest.mark.parametrize('field', dataclasses.fields(Settings), ids=lambda f: f.name)
def test_every_hyperparameter_is_listed_with_its_default(field):
    rows = [
        line for line in README.splitlines() if line.startswith(f'| `{field.name}`')
    ]
    assert len(rows) == 1, f'{field.name} has {len(rows)} rows in README.md'
    default = rows[0].split('|')[2].strip().strip('`')
    if isinstance(field.default, float):
        assert float(default) == field.default
    else:
        assert default == str(field.default)


def test_the_example_trains():
    source = README.split('```python\n')[1].split('```')[0]
    names = {}
    exec(compile(source, 'README.md', 'exec'), names)
    params, state, losses = names['params'], names['state'], []
    for _ in range(20):
        params, state, loss = names['statistics_step'](params, state, names['batch'])
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
