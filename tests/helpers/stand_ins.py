"""Commands that stand for others, for tests of the shell scripts that call these."""

from pathlib import Path


def stand_in(path: Path, body: str) -> None:
    """Write a program in sh; what calls it has its folder first in PATH."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
