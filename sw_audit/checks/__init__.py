"""The checks: what each claims, its limits, and the pure rule that holds measurements against them."""
