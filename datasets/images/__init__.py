"""Images in files: found, read, cached."""
