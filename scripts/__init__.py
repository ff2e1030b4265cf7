"""The recipes, and the programs beside train.py, augment.py, augment_ftl.py and predict.py."""
