"""A run: its folder, checkpoints, steps, and how it is resumed."""
