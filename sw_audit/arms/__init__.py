"""What an arm of the experiment does to a decoder layer, one kind of action in one file, undone bit for bit."""
