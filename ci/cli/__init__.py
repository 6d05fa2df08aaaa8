"""The command line: commands, the session of a run, the self-test, and cleaning up."""
