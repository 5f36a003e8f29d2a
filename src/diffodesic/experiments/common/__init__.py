"""What several experiments share: inputs, statistics, small networks, sampled paths."""
