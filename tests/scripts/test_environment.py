"""The environment that quickstart.sh and test.sh make, with a stand-in for Python."""

import os
import subprocess
from pathlib import Path

import pytest

from helpers.project import ROOT
from helpers.stand_ins import stand_in

PYTHON = """echo "$@" >>"$TOLD"
[ "$1 $2" != "$FAILS" ] || exit 1
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p .venv/bin && cp "$0" .venv/bin/python && touch .venv/bin/activate
fi
"""


INSTALL = "-m pip install --disable-pip-version-check --quiet -r wanted.txt"
PREPARE = ["bash", "-euo", "pipefail", "-c", f". '{ROOT}/scripts/environment.sh' && prepare_environment wanted.txt"]


def prepare(folder: Path, **active: str) -> list[str]:
    """Prepare an environment in a folder; returns the calls of Python that make and fill it."""
    python, told = folder / "python3", folder / "told"
    if not python.exists():
        stand_in(python, PYTHON)
        (folder / "python").symlink_to(python)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(told), "FAILS": "", **active}
    subprocess.run(PREPARE, cwd=folder, env=environment, check=True)
    calls = [line for line in told.read_text().splitlines() if line.startswith("-m")]
    told.unlink()
    return calls


def test_environment_that_was_interrupted_is_made_again(tmp_path):
    """Python's venv makes its interpreter first, and what activates it last."""
    half = tmp_path / ".venv" / "bin" / "python"
    half.parent.mkdir(parents=True)
    half.symlink_to(tmp_path / "python3")
    assert [prepare(tmp_path), prepare(tmp_path)] == [["-m venv .venv", INSTALL], [INSTALL]]


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_active_environment_is_used_as_it_is(variable, tmp_path):
    assert prepare(tmp_path, **{variable: "there"}) == [INSTALL]
    assert not (tmp_path / ".venv").exists()


def test_environment_that_uv_has_made_is_filled_by_it(tmp_path):
    """It has no pip."""
    stand_in(tmp_path / "uv", f'echo "-m uv $@" >>{tmp_path}/told')
    assert prepare(tmp_path, VIRTUAL_ENV="there", FAILS="-c import pip") == ["-m uv pip install --quiet -r wanted.txt"]


def test_active_environment_of_an_old_python_is_told(tmp_path):
    stand_in(tmp_path / "python", '[ "$1" = --version ] && echo "Python 3.10.2" || exit 1')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VIRTUAL_ENV": "there"}
    done = subprocess.run(PREPARE, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the active environment has Python 3.10.2: Python 3.11 or newer is needed\n"
