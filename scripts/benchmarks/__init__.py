"""What benchmark.py measures, and curves and profiles beside it."""
