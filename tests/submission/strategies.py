"""What the strategies of both frameworks' tests draw alike."""

from hypothesis import strategies as st


def integers_by_axis(draw, axes):
    """A function that draws an integer between two bounds for each axis."""

    def integers(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * axes))

    return integers
