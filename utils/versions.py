"""Of which commit the code is, and of which version a package; needs nothing beyond Python, if all else is missing."""

import importlib.metadata
import os
import subprocess
from pathlib import Path


def installed_version(package: str) -> str | None:
    """Find the version of a package; None where it is not installed, or without metadata, as own builds may be."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_version() -> dict[str, str | bool | None]:
    """Commit of the code and whether it was changed since; None where no repository has this very code.

    What lies in results/ is no code: runs put their numbers there.
    """
    root = Path(__file__).resolve().parents[1]
    try:
        # fails for a copy that lies in somebody else's repository
        _git(root, "ls-files", "--error-unmatch", str(Path(__file__).resolve()))
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
        return {"commit": commit, "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(root: Path, *words: str) -> str:
    """Ask git about the folder, whatever repository the environment names and whoever owns the folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()
