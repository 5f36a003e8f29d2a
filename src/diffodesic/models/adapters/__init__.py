"""Models of foreign families: pipelines of diffusers, EDM pickles, functions of yours."""
