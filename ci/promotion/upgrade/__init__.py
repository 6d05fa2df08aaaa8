"""The upgrade itself, and watching what it becomes."""
