"""Which factors share an array, and what becomes of them there."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.jax.stacks import FactorStacks


def _named(shapes):
    """Factors of these shapes, the two sides of one layer after the other's."""
    sides = (f'layer_{i // 2}/{"ab"[i % 2]}' for i in range(len(shapes)))
    return dict(zip(sides, shapes, strict=False))


def _square(*sizes, groups=1):
    return _named([(groups, size, size) for size in sizes])


class TestStacks:
    def test_almost_equal_sizes_share_one(self):
        stacks = FactorStacks.of(_square(*[48, 49] * 10, 193, 192))
        assert stacks.stacked_shapes() == [(2, 1, 193, 193), (20, 1, 49, 49)]

    def test_a_few_small_ones_join_the_next_larger(self):
        stacks = FactorStacks.of(_square(*[64] * 20, 9, 10))
        assert stacks.stacked_shapes() == [(22, 1, 64, 64)]

    @pytest.mark.parametrize(
        ('sizes', 'expected'),
        [
            ([64, 32], [(1, 64), (1, 32)]),
            # The work is that of the largest, the memory that of the others too.
            ([2048, *[64] * 50, *[32] * 99], [(1, 2048), (149, 64)]),
            ([2048, *[64] * 50, *[32] * 399], [(1, 2048), (50, 64), (399, 32)]),
        ],
    )
    def test_padding_has_a_limit(self, sizes, expected):
        stacks = FactorStacks.of(_square(*sizes))
        assert [(n, d) for n, _, d, _ in stacks.stacked_shapes()] == expected

    def test_groups_are_told_apart(self):
        shapes = _named([(1, 8, 8), (1, 8, 8), (2, 8, 8), (2, 8, 8)])
        assert FactorStacks.of(shapes).stacked_shapes() == [(2, 2, 8, 8), (2, 1, 8, 8)]

    def test_no_factors(self):
        stacks = FactorStacks.of({})
        assert stacks.names == ()
        assert stacks.order == []
        assert stacks.stack({}, jnp.float32) == []

    @given(
        st.lists(
            st.tuples(st.sampled_from([1, 3]), st.integers(1, 9)),
            min_size=2,
            max_size=8,
        ).filter(lambda shapes: len(shapes) % 2 == 0),
        st.randoms(use_true_random=False),
    )
    def test_what_goes_in_comes_out(self, shapes, random):
        shapes = _named([(groups, size, size) for groups, size in shapes])
        stacks = FactorStacks.of(shapes)
        assert sorted(stacks.order) == sorted(shapes)
        padded = sum(n * g * d * d for n, g, d, _ in stacks.stacked_shapes())
        assert padded <= 1.125 * sum(g * d * d for g, d, _ in shapes.values())
        values = {
            name: np.full(shape, 1 + random.random()) for name, shape in shapes.items()
        }
        missing = random.choice(sorted(shapes))
        stacked = stacks.stack(
            {name: values[name] for name in values if name != missing}, jnp.float32
        )
        assert [stack.shape for stack in stacked] == stacks.stacked_shapes()
        # Nothing is in the padding.
        total = sum(float(stack.sum()) for stack in stacked)
        expected = sum(v.sum() for name, v in values.items() if name != missing)
        assert total == pytest.approx(expected, rel=1e-5)
        for shape in set(shapes.values()):
            names = [name for name in shapes if shapes[name] == shape]
            random.shuffle(names)
            for name, found in zip(names, stacks.pick(stacked, names), strict=True):
                value = values[name]
                expected = np.zeros_like(value) if name == missing else value
                np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_vectors_are_split_like_the_stacks(self):
        stacks = FactorStacks.of(_square(64, 9, 8, 65, 30, 31))
        parts = stacks.split(np.arange(6))
        assert [[stacks.order[i] for i in part] for part in parts] == [
            list(names) for names in stacks.names
        ]

    def test_the_other_side_of_a_layer(self):
        names = [f'{layer}/{side}' for layer in ('w', 'w/a', 'w/b') for side in 'ab']
        stacks = FactorStacks.of(dict.fromkeys(names, (1, 2, 2)))
        pairs = {
            name: stacks.order[other]
            for name, other in zip(stacks.order, stacks.other_sides, strict=True)
        }
        assert pairs['w/a'] == 'w/b'
        assert pairs['w/a/a'] == 'w/a/b'
        assert pairs['w/b/b'] == 'w/b/a'

    def test_an_unknown_name(self):
        stacks = FactorStacks.of(_square(3, 3))
        with pytest.raises(KeyError, match='elsewhere'):
            stacks.pick([jnp.zeros((2, 1, 3, 3))], ['elsewhere'])
