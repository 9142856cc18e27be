"""One file per library; each registers its methods, and is found by being here."""
