import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads_overrides.algoperf_data.errors import DataError
from workloads_overrides.algoperf_data.selection import spread


@given(st.data())
def test_positions_are_distinct_in_order_and_reach_over_the_split(data):
    available = data.draw(st.integers(1, 500))
    wanted = data.draw(st.integers(1, available))
    positions = spread(available, wanted, 'train')
    assert len(positions) == wanted
    assert (np.diff(positions) > 0).all()
    assert positions[0] == 0
    # The last stretch is no longer than the others.
    assert available - positions[-1] <= math.ceil(available / wanted)


def test_none_takes_all():
    np.testing.assert_array_equal(spread(4, None, 'test'), [0, 1, 2, 3])


@pytest.mark.parametrize('wanted', [0, -1, 11])
def test_other_numbers_are_errors_that_name_the_flag_and_the_limit(wanted):
    with pytest.raises(
        DataError, match=rf'--num_test is {wanted}; .* between 1 and 10'
    ):
        spread(10, wanted, 'test')
