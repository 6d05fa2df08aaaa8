"""What an upgrade would change on a target, before it is done."""
