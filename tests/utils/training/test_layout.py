"""What lies in a run folder, and that git takes none of it for code."""

import os
import shutil
import subprocess

import pytest

from helpers.project import ROOT
from utils.training.folder import RunFolder
from utils.training.layout import CODES, FOLDERS, MEASURED, NAMES, PROJECTED, PROJECTOR, SUFFIXES


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git")
def test_run_in_the_folder_of_the_code_is_ignored_by_git(tmp_path, monkeypatch):
    """`--logdir` and `--datadir` are the current folder by default."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # what the user has git ignore does not count
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    left = [*MEASURED, *CODES, PROJECTOR, ".lock", ".lock_aug", "events.out.tfevents.1.host.2.0.train"]
    left += [f"{folder}/file" for folder in (*FOLDERS, PROJECTED, "cache")]
    for suffix in SUFFIXES:
        folder = RunFolder(str(tmp_path), suffix)
        paths = [*map(folder.file, NAMES), folder.checkpoint, folder.previous, folder.best]
        left += [path.name for path in paths]
    done = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        **{"cwd": tmp_path, "input": "\n".join(left), "capture_output": True, "text": True},
    )
    assert [name for name in left if name not in done.stdout.splitlines()] == []
