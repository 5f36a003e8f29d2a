"""Baselines: the paths between images that other methods take."""
