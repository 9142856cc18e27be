"""What an audit is asked to do: the policy, the file it is read from, and the recipes that it names."""
