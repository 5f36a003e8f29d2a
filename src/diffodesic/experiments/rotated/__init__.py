"""Rotated digits: from one angle to another, and past the end (2505.11128)."""
