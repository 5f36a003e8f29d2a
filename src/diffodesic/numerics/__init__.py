"""Numerical methods on tensors: derivatives, curves, quadrature, linear solves, ODEs, cost."""

from diffodesic.numerics.cost import Cost, counting
from diffodesic.numerics.curves import Polyline, Spline

__all__ = ["Cost", "Polyline", "Spline", "counting"]
