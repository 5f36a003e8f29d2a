"""The published experiments, one file or folder each."""
