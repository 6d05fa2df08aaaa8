"""Reading a release and its rollout: the ground floor of a promotion."""
