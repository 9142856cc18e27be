"""From a policy to a record: what is opened, located, measured, remembered and judged."""
