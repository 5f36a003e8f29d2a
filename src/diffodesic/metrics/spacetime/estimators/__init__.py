"""Estimators of the spacetime metric for denoisers that give the posterior mean alone."""
