"""What made the assets: not shipped, and nothing of the package imports it."""
