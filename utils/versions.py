"""The version of an installed package; needs nothing beyond Python, so that it can tell of what is missing."""

import importlib.metadata


def installed_version(package: str) -> str | None:
    """Find the version of a package; None where it is not installed, or without metadata, as own builds may be."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
