import pytest

from experiments.seeds import parse_seeds


def test_each_is_taken_once():
    assert parse_seeds(['2', '0', '2']) == [2, 0]


@pytest.mark.parametrize(
    ('texts', 'message'),
    [(['0', 'a'], "--seeds has 'a'"), (['-1'], "has '-1'"), ([], '--seeds is empty')],
)
def test_mistakes(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_seeds(texts)
