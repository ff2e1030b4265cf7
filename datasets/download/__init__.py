"""Downloading and unpacking files."""
