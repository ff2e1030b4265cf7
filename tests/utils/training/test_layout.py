"""What lies in a run folder, and that git takes none of it for code."""

import os
import shutil
import subprocess

import pytest

from helpers.project import ROOT
from utils.errors import UserError
from utils.training.folder import RunFolder
from utils.training.layout import CODES, FOLDERS, MEASURED, NAMES, PROJECTED, PROJECTOR, SUFFIXES, find_runs


def test_runs_are_found_by_links_too_and_each_once(tmp_path):
    """Such as those on another disk. Links may lead in circles."""
    for name in ("logs/deep/b", "logs/c", "elsewhere/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "args.json").touch()
    logs = tmp_path / "logs"
    (logs / "a").symlink_to(tmp_path / "elsewhere/a")
    (logs / "d").symlink_to(logs / "c")
    (logs / "deep/up").symlink_to(logs)
    (logs / "gone").symlink_to(tmp_path / "nowhere")
    (logs / "deep/metrics.csv").symlink_to(tmp_path / "nowhere")  # no run, as its table is gone
    assert find_runs(logs) == [logs / "a", logs / "c", logs / "deep/b"]
    assert find_runs(logs / "d") == [logs / "d"]
    with pytest.raises(UserError, match=r"nowhere cannot be read \(No such file or directory\): name another folder"):
        find_runs(tmp_path / "nowhere")


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
