"""Targets for data that the published targets were not set on."""


class UnreachableTargets:
    """Comes before a class of AlgoPerf in the bases of a variant.

    On other data the published targets mean nothing, and a run that happened to be
    above them at its first evaluation would end there.
    """

    @property
    def validation_target_value(self) -> float:
        """A value that no accuracy or average precision is above."""
        return 1.0

    @property
    def test_target_value(self) -> float:
        """A value that no accuracy or average precision is above."""
        return 1.0
