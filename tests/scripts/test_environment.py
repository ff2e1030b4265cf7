"""The environment that quickstart.sh and test.sh make, with a stand-in for Python."""

import os
import subprocess

from helpers.project import ROOT

PYTHON = """#!/bin/sh
echo "$@" >>"$TOLD"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p .venv/bin && cp "$0" .venv/bin/python && touch .venv/bin/activate
fi
"""


def test_environment_that_was_interrupted_is_made_again(tmp_path):
    """Python's venv makes its interpreter first, and what activates it last."""
    told, python, half = tmp_path / "told", tmp_path / "python3", tmp_path / ".venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / "python").symlink_to(python)
    half.parent.mkdir(parents=True)
    half.symlink_to(python)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": str(told)}
    code = f". {ROOT}/scripts/environment.sh && prepare_environment wanted.txt"
    for _ in range(2):
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], cwd=tmp_path, env=environment, check=True)
    calls = [line for line in told.read_text().splitlines() if line.startswith("-m")]
    install = "-m pip install --quiet --disable-pip-version-check -r wanted.txt"
    assert calls == ["-m venv .venv", install, install]
