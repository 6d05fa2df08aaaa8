"""Questions before the change: whether a release is fit to be changed."""
