"""What makes the data that sw-audit ships and tests with; not part of what is installed."""
