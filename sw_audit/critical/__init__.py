"""The scalars of a model that matter, wherever they are: ranked by one gradient, decided by intervention."""
