"""One kind of exception for what a user can get wrong, and the place where it becomes one line and exit status 2."""

import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """Something the user can mend: the message names the thing and the remedy, in one line."""


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run an entry script's `main` and leave the process with its exit status.

    A `UserError` becomes `error: ...` on standard error and status 2, Ctrl-C status 130. Any other exception is a
    fault of the program and keeps its traceback.
    """
    status = 0
    try:
        main()
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)  # not within the except: the error would keep all that main held alive
