"""Figures of a run, drawn from the files in its folder; only `drawing` and what it imports know matplotlib."""
