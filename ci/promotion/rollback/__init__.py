"""Returning a target to what it served: automatically, on request, and by hand."""
