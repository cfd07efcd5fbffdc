"""What both frameworks know of steepest descent under the spectral norm.

With the damped factors A and B of a layer and the momentum M of its gradient, the
direction U that has the largest product with M among all with
||B**(1/2) U A**(1/2)|| <= 1, in the spectral norm, is

    U = R_b.T polar(R_b M R_a.T) R_a,   R.T R the inverse of a factor,

where polar(W) = P Q.T for the singular value decomposition W = P S Q.T. It does not
depend on which roots R are taken. Without curvature (A and B the identity) this is the
direction of Muon (Jordan et al., 2024), whose iteration for the polar factor is used.
With it no direction in which the output of the model is sensitive is gone along
further than the others; K-FAC's own step is by the gradient's size besides.

A direction of any momentum, however small, has the same size. A layer whose gradient is
zero as a whole stands still.
"""

# Root mean square of a layer's update, which is about that of AdamW's (Liu et al.,
# 2025, Section 2.2), so that the learning rates and weight decays of both agree.
UPDATE_RMS = 0.2
# Jordan et al.: fast for small singular values, which end between 0.7 and 1.2.
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
ITERATIONS = 6
