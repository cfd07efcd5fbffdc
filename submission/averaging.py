"""How much a step counts in the averaged parameters, the same in both frameworks."""


def newest_share(step: int, power: float) -> float:
    """Returns the share of a step's parameters in the average after it.

    Averages that are moved by this share weigh the parameters of step t, counted from
    1, by t (t + 1) ... (t + power - 1) where the power is whole, about t**power: the
    polynomial-decay averaging of Shamir and Zhang (2013, Section 4). It is as long in
    proportion to the run so far at any time, so that it needs no horizon and suits
    short runs as well as long ones.

    Args:
      step: Number of steps taken before this one.
      power: How fast weights grow; 0 weighs all steps alike.
    """
    return (power + 1.0) / (step + 1.0 + power)
