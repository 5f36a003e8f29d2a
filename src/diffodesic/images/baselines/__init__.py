"""Paths between images that other methods take."""
