"""Geodesics, distances and paths in the geometry that a diffusion model has learned."""
