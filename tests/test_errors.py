"""What the user can mend is one line and status 2; what we must mend keeps its traceback."""

import pytest

from utils.errors import UserError, run_script


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such file: a\n  b"), 2, "error: no such file: a b\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_one_line_and_a_status(error, status, line, capsys):
    with pytest.raises(SystemExit) as end:
        run_script(raising(error))
    assert end.value.code == status
    assert capsys.readouterr().err == line


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_script(raising(ZeroDivisionError()))


def test_success_is_status_0():
    with pytest.raises(SystemExit) as end:
        run_script(lambda: None)
    assert end.value.code == 0
