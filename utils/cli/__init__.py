"""The command line: parsers, types of values, and rules between flags."""
