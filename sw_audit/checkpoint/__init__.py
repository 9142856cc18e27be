"""Reading weights: what is on disk, whether it can be trusted, and where each layer keeps its matrices."""
