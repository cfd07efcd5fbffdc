import json

import pytest

from experiments.step_time.results import OtherConditionsError, Results

CONDITIONS = {'machine': {'cores': 2}, 'rounds': 3}


def test_a_run_goes_on_with_what_is_missing(tmp_path):
    path = tmp_path / 'folder' / 'results.json'
    results = Results.open(path, CONDITIONS)
    assert results.ensure('first', lambda: [1, 2]) == [1, 2]
    with pytest.raises(KeyboardInterrupt):
        results.ensure('second', interrupt)
    again = Results.open(path, CONDITIONS)
    assert again.ensure('first', interrupt) == [1, 2]
    assert again.ensure('second', lambda: 3.0) == 3.0
    content = json.loads(path.read_text())
    assert content['parts'] == {'first': [1, 2], 'second': 3.0}
    assert content['conditions'] == CONDITIONS
    assert list(content['load_average']) == ['first', 'second']


def interrupt():
    raise KeyboardInterrupt


def test_results_of_other_conditions_are_not_mixed(tmp_path):
    path = tmp_path / 'results.json'
    Results.open(path, CONDITIONS).ensure('first', lambda: 1)
    with pytest.raises(OtherConditionsError, match='delete it'):
        Results.open(path, {**CONDITIONS, 'rounds': 4})


def test_results_are_read_whatever_the_conditions(tmp_path):
    path = tmp_path / 'results.json'
    with pytest.raises(ValueError, match=r'results\.json: there are no results'):
        Results.load(path)
    Results.open(path, CONDITIONS).ensure('first', lambda: 1)
    found = Results.load(path)
    assert (found.conditions, found.parts) == (CONDITIONS, {'first': 1})
