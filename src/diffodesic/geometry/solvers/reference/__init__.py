"""Reference solvers: what others use to find geodesics, by name, for comparison.

Beside :class:`AdamSpline`, the recipe of 2505.17517, all minimise ``E(x) = n/2 sum
squared_steps`` over the inner nodes of paths that begin at the chord, or at the path that is given.
None is preconditioned by the path Laplacian, none begins on fewer nodes.

A path has converged when the decrease of the energy that H0, the inverse path Laplacian, predicts
(``gradient_norm**2``) is at most ``rtol`` of it; for :class:`Georce`, its own prediction.
"""

from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.geometry.solvers.reference.elastic_band import Neb
from diffodesic.geometry.solvers.reference.first_order import LBFGS, AdamNodes
from diffodesic.geometry.solvers.reference.georce import Georce

__all__ = ["LBFGS", "AdamNodes", "AdamSpline", "Georce", "Neb"]
