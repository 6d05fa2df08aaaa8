"""Results are data, rendered after: the terminal view, the closing summary, JUnit."""
