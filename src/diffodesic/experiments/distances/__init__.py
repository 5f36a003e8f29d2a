"""Which distance when: prices, correlations and retrieval of distances of pictures."""
