"""What the scripts of the published experiments are made of: methods on codes, measures, jobs, tables."""
