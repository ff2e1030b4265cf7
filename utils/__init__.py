"""What every script shares: arguments, randomness, checkpoints, metrics, run folders and the training loop.

Nothing here imports `models` or `datasets`; scripts hand over what is needed.
"""
