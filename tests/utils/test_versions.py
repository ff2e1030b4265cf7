"""Of which commit the code says it is."""

import os
import shutil
import subprocess

import pytest

from utils import versions
from utils.versions import code_version


def git(folder, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A copy of the module that asks for the commit, in `outer/code`; gives (outer, code).

    git follows no settings of the user's.
    """
    if not shutil.which("git"):
        pytest.skip("there is no git")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    module = tmp_path / "outer" / "code" / "utils" / "versions.py"
    module.parent.mkdir(parents=True)
    module.touch()
    monkeypatch.setattr(versions, "__file__", str(module))
    return tmp_path / "outer", tmp_path / "outer" / "code"


UNKNOWN = {"commit": None, "dirty": None}


def test_code_that_no_repository_has_is_of_no_commit(code):
    outer, _ = code
    assert code_version() == UNKNOWN
    git(outer, "init", "-q")
    (outer / "thesis.tex").touch()
    git(outer, "add", "thesis.tex")
    git(outer, "commit", "-qm", "x")
    assert code_version() == UNKNOWN  # unpacked in a repository of something else


def test_commit_is_that_of_the_code(code, tmp_path, monkeypatch):
    outer, inner = code
    git(outer, "init", "-q")
    (outer / "thesis.tex").touch()
    (inner / "results").mkdir()
    (inner / "results" / "log.txt").touch()
    git(outer, "add", ".")
    git(outer, "commit", "-qm", "x")
    assert code_version() == {"commit": git(outer, "rev-parse", "HEAD"), "dirty": False}
    (outer / "thesis.tex").write_text("changed")
    (inner / "results" / "log.txt").write_text("changed")
    assert code_version()["dirty"] is False
    (inner / "utils" / "versions.py").write_text("changed")
    assert code_version()["dirty"] is True
    git(outer, "worktree", "add", "-q", "-b", "other", str(tmp_path / "tree"))
    git(tmp_path / "tree", "commit", "-qm", "y", "--allow-empty")
    monkeypatch.setenv("GIT_DIR", str(outer / ".git"))  # as in a hook
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "tree" / "code" / "utils" / "versions.py"))
    other = git(tmp_path / "tree", "--git-dir", str(tmp_path / "tree" / ".git"), "rev-parse", "other")
    assert code_version() == {"commit": other, "dirty": False}
