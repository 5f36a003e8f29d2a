"""Alanine dipeptide on its surface U(phi, psi) (2505.17517)."""
