"""What a run says at its end."""

import os

from utils.training.run import print_result


def test_result_that_nobody_reads_is_no_fault(monkeypatch, caplog):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as unread:
        monkeypatch.setattr("sys.stdout", unread)
        print_result({"acc": 0.5})
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    assert caplog.messages == ["standard output takes no more (Broken pipe); the result is in the run folder"]
