"""Published coordinates of super weights: read, looked up by model, and grown by local findings."""
