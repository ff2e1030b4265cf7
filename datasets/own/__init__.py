"""One's own images: class folders or a table, and how splits are made of what is found."""
