import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads_overrides.runner.csv_log import CsvLog


def read(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from('abcd'), st.text('x,"\n 1'), min_size=1),
        min_size=1,
        max_size=8,
    ),
    data=st.data(),
)
def test_any_rows_are_read_back_and_cut_back_to_any_count(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp('csv') / 'log.csv'
    log = CsvLog(path)
    for row in rows:
        log.append(row)
    log.close()
    columns = sorted({name for row in rows for name in row})
    expected = [{name: row.get(name, '') for name in columns} for row in rows]
    found = read(path)
    assert [dict(sorted(row.items())) for row in found] == expected

    kept = data.draw(st.integers(1, len(rows)))
    log = CsvLog(path, rows_to_keep=kept)
    assert log.num_rows == kept
    assert [dict(sorted(row.items())) for row in read(path)] == expected[:kept]
    log.append(rows[-1])
    log.close()
    assert len(read(path)) == kept + 1


def test_columns_are_sorted_and_new_ones_go_to_the_end_as_they_come(tmp_path):
    log = CsvLog(tmp_path / 'log.csv')
    log.append({'loss': 0.1, 'global_step': 1})
    log.append({'score': 7, 'global_step': 2, 'accuracy': 0.5})
    log.append({'global_step': 3})
    log.close()
    assert (tmp_path / 'log.csv').read_text() == (
        'global_step,loss,score,accuracy\n1,0.1,,\n2,,7,0.5\n3,,,\n'
    )


def test_a_cut_off_last_line_is_dropped(tmp_path):
    path = tmp_path / 'log.csv'
    path.write_text('a,b\n1,2\n3,4\n5,')
    CsvLog(path, rows_to_keep=3).close()
    assert path.read_text() == 'a,b\n1,2\n3,4\n'


@pytest.mark.parametrize('content', ['', 'a,', 'a,b\n', 'a,b\n1,2\n'])
def test_no_rows_to_keep_begins_anew(tmp_path, content):
    path = tmp_path / 'log.csv'
    path.write_text(content)
    log = CsvLog(path, rows_to_keep=0)
    assert not path.exists()
    log.append({'c': 1})
    log.close()
    assert path.read_text() == 'c\n1\n'


def test_rows_are_in_the_file_at_once(tmp_path):
    log = CsvLog(tmp_path / 'log.csv')
    for number in range(3):
        log.append({'a': number})
        assert len(read(tmp_path / 'log.csv')) == number + 1
    log.close()
