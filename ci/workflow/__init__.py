"""What a command does, step by step, and where: the list, the environments, the hand-offs."""
