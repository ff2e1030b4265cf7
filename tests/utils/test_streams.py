"""Standard streams that are closed, or that nobody reads, neither end a script nor spoil its files."""

import os
import subprocess
import sys

import pytest

from helpers.project import ROOT
from utils.streams import print_result

SCRIPT = """
import subprocess, sys
from utils.errors import run_script

def main():
    with open(sys.argv[1], "w") as file:
        print("line", flush=True)
        subprocess.run("echo noise; echo noise >&2", shell=True)
        file.write("content")

run_script(main)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_printed_into_a_closed_stream_reaches_no_file(closed, tmp_path):
    path = tmp_path / "file"
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", SCRIPT, str(path)]
    assert subprocess.run(words, cwd=ROOT).returncode == 0
    assert path.read_text() == "content"


def test_character_that_the_terminal_lacks_is_a_number():
    words = [sys.executable, "-c", "from utils.errors import run_script; run_script(lambda: print('1 \\xb1 2'))"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1 \\xb1 2\n", b"")


def test_reader_that_is_gone_is_no_fault():
    words = [sys.executable, "-c", "from utils.errors import run_script; run_script(lambda: print('line'))"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(words, cwd=ROOT, env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [("for _ in range(1_000_000): print('line')", 141, False), ("raise BrokenPipeError", 1, True)],
    ids=["a reader that is gone", "a pipe of its own"],
)
def test_long_output_ends_quietly_with_its_reader_and_a_fault_does_not(code, status, told):
    script = f"from utils.errors import run_script\ndef main():\n    {code}\nrun_script(main)"
    words = ["bash", "-c", 'set -o pipefail; "$@" | head -1', "bash", sys.executable, "-c", script]
    if told:
        words = words[4:]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (status, told)


def test_windows_is_told_where_this_runs():
    code = "import sys; sys.platform = 'win32'; import utils.errors"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "WSL" in done.stderr


def test_result_is_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_result({"acc": float("nan")})


def test_result_that_nobody_reads_is_no_fault(monkeypatch, caplog):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as unread:
        monkeypatch.setattr("sys.stdout", unread)
        print_result({"acc": 0.5})
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    assert caplog.messages == ["standard output takes no more (Broken pipe); the files of the result are written"]
