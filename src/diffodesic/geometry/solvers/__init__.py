"""Boundary-value solvers: paths of least energy between fixed ends."""
