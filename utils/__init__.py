"""What every script shares: arguments, randomness, checkpoints, metrics, processes and runs.

Nothing here imports `models` or `datasets`; scripts hand over what is needed.
"""
