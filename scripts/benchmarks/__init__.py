"""What benchmark.py measures, and curves and profiles beside it."""

MISSED = 3  # exit status of benchmark.py where a target is missed; that of an error is 1 or 2
