import pytest

from experiments import text_tables


def test_markdown():
    table = text_tables.markdown(['a', 'b'], [['1', '2'], ['3', '']])
    assert table.splitlines() == ['| a | b |', '| --- | --- |', '| 1 | 2 |', '| 3 |  |']


def test_aligned():
    table = text_tables.aligned(['method', 'ms'], [['one', '10.25'], ['another', '2']])
    assert table.splitlines() == [
        'method  |    ms',
        '--------|------',
        'one     | 10.25',
        'another |     2',
    ]


def test_aligned_without_rows():
    assert text_tables.aligned(['a'], []).splitlines() == ['a', '-']


def test_a_row_that_lacks_a_cell():
    with pytest.raises(ValueError, match='shorter'):
        text_tables.aligned(['a', 'b'], [['1']])
