import json

import pytest

from experiments.variations import tried
from experiments.variations.points import base_points
from experiments.variations.tried_table import format_table
from submission.settings import Settings
from tests.experiments.variations.records import BASE, make_results

BASES = {'expand': {**BASE, 'approximation': 'expand'}, 'reduce': BASE}
MORE = {'name': 'more', 'description': 'more damping', 'changes': {'damping': 0.3}}
LESS = {'name': 'less', 'description': 'less damping', 'changes': {'damping': 0.01}}
SUMS = {
    'name': 'sums',
    'description': 'sums of inputs',
    'changes': {'reduce_normalisation': 'sum_inputs'},
}
FEW = {
    'name': 'few',
    'description': 'fewer positions on a shorter schedule',
    'changes': {'statistics_stride': 4, 'step_hint_factor': 0.2},
}


def load(folder, content):
    path = folder / 'some.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return tried.load(path, BASES)


def test_the_file_here_loads():
    bases = base_points(['expand', 'reduce'])
    variations = tried.load(tried.TRIED, bases)
    assert len(variations) == 1 + len(json.loads(tried.TRIED.read_text()))
    assert len(variations) > 15
    settings = [
        Settings.from_hyperparameters(variation.point(bases['reduce']).hyperparameters)
        for variation in variations.values()
    ]
    # No two names for one thing.
    assert len(set(settings)) == len(settings)


def test_variations_change_what_they_say(tmp_path):
    variations = load(tmp_path, [MORE, SUMS])
    assert list(variations) == ['base', 'more', 'sums']
    assert variations['base'].point(BASE).hyperparameters == BASE
    point = variations['more'].point(BASE)
    assert point.hyperparameters == {**BASE, 'damping': 0.3}
    assert point.name == 'K-FAC-reduce, more'


def test_what_one_approximation_reads_is_not_tried_with_the_other(tmp_path):
    found = tried.points(list(load(tmp_path, [SUMS, FEW]).values()), BASES)
    assert [point.name for point in found] == [
        'K-FAC-expand, base',
        'K-FAC-expand, few',
        'K-FAC-reduce, base',
        'K-FAC-reduce, sums',
    ]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('[', r'some.json cannot be read as JSON'),
        ({}, 'some.json has to be a list of at least one variation'),
        ([], 'some.json has to be a list of at least one variation'),
        (
            [MORE, 3],
            r'some.json, entry 2: has to be an object with the keys name, desc',
        ),
        ([{'name': 'a'}], r"entry 1 \('a'\): has to be an object with the keys"),
        ([{**MORE, 'name': ''}], "entry 1 .*'name' has to be a text"),
        (
            [{**MORE, 'description': 'a|b'}],
            "'description' has to be a text, .* without",
        ),
        ([MORE, MORE], r"some.json, entry 2 \('more'\): there is one of this name"),
        ([{**MORE, 'name': 'base'}], r"entry 1 \('base'\): there is one of this name"),
        ([{**MORE, 'changes': {}}], "'changes' has to map hyperparameters to values"),
        (
            [LESS, {**MORE, 'changes': {'damping': 'much'}}],
            r"some.json, entry 2 \('more'\): Hyperparameter 'damping' is 'much'",
        ),
        (
            [{**MORE, 'changes': {'dampening': 1}}],
            r"entry 1 \('more'\): Unknown hyperparameter 'dampening'",
        ),
        (
            [{**MORE, 'changes': {'damping': 0.1}}],
            "'more'.*what the base point has alr",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'nothing.json cannot be read'):
        tried.load(tmp_path / 'nothing.json', BASES)


def rows_of(table):
    return [line for line in table.splitlines() if line.startswith('|')][2:]


def test_table_sorted_by_steps(tmp_path):
    variations = load(tmp_path, [MORE, LESS, SUMS])
    at = [{'reaches_at': steps, 'end': 0.7} for steps in (10, 20, 30)]
    results = make_results(
        [
            (variations['base'].point(BASE), at),
            (variations['more'].point(BASE), [{}, {'reaches_at': 20, 'end': 0.6}, {}]),
            (variations['less'].point(BASE), [{'reaches_at': 10, 'end': 0.725}] * 3),
            (variations['sums'].point(BASE), at[:2]),
        ]
    )
    table = format_table(list(variations.values()), {'reduce': BASE}, results)
    assert '## K-FAC-reduce' in table
    base = variations['base'].description
    assert rows_of(table) == [
        '| less | less damping | 10 (10, 10, 10) | 0.50 | 0.7250 | +0.0250 |',
        f'| base | {base} | 20 (10, 20, 30) | 1.00 | 0.7000 | +0.0000 |',
        '| more | more damping | - (-, 20, -) | - | 0.4000 | -0.3000 |',
    ]
    assert table.endswith('Not trained with all seeds yet: sums.')


def test_table_says_where_trials_stopped_at_the_target(tmp_path):
    variations = load(tmp_path, [MORE])
    results = make_results(
        [
            (variations['base'].point(BASE), [{'reaches_at': 20, 'stops': True}]),
            (variations['more'].point(BASE), [{'reaches_at': 10}]),
        ],
        seeds=[0],
    )
    table = format_table(list(variations.values()), {'reduce': BASE}, results)
    assert rows_of(table) == [
        '| more | more damping | 10 (10) | 0.50 | 0.6000 | - |',
        '| base | first point of the search space | 20 (20) | 1.00 | 0.6000\\* | - |',
    ]
    assert table.splitlines()[-1].startswith('\\* A trial of the row ended')


def test_table_without_the_base_point(tmp_path):
    variations = load(tmp_path, [MORE])
    results = make_results(
        [(variations['more'].point(BASE), [{'reaches_at': 10}])], seeds=[0]
    )
    table = format_table(list(variations.values()), {'reduce': BASE}, results)
    assert rows_of(table) == ['| more | more damping | 10 (10) | - | 0.6000 | - |']
    assert table.endswith('Not trained with all seeds yet: base.')
