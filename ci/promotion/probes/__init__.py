"""Requests and tasks during a change, every one accounted for."""
