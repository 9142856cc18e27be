"""The pytest plugin of sw-audit: models become test cases, one per check and model."""
