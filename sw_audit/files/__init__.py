"""What a descendant's files show beside its parent's, before anything is opened."""
