"""Reading text: where it comes from, how it is cut into windows, and what is asked about it."""
