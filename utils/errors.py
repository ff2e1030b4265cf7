"""What a user can get wrong, a process that is gone, and the place where they become one line and an exit status."""

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from utils import stopping, streams
from utils.stopping import Stopped


class UserError(Exception):
    """Something the user can mend: the message names the thing and the remedy, in one line."""


class NotFinite(UserError):
    """A model has gone astray, and its weights are not worth keeping."""


class LostRank(Exception):
    """A process of a run is gone, and with it the run: the message says which."""


class LostWorker(Exception):
    """A process that loads images is gone, and with it the run: the message says why, and what helps."""


def print_error(text: object) -> None:
    """Print the one line on standard error."""
    streams.say("error: " + " ".join(str(text).split()))


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run an entry script's `main` and leave the process with its exit status.

    A `UserError` becomes `error: ...` on standard error and status 2, a lost process the same with status 1, a signal
    that means "stop" 128 and its number: SIGTERM 143, Ctrl-C 130. A `main` that prints on where nobody reads
    any more, as behind `| head`, ends with 141, the status of SIGPIPE. Any other exception is a fault of the program
    and keeps its traceback.
    """
    status = 0
    with streams.guarded(), stopping.handled():
        try:
            main()
        except UserError as error:
            print_error(error)
            status = 2
        except (LostRank, LostWorker) as error:
            print_error(error)
            status = 1
        except Stopped as stop:
            streams.say(stop)
            status = stop.status
        except BrokenPipeError:
            if streams.is_read(sys.stdout):
                raise
            status = 128 + signal.SIGPIPE
    sys.exit(status)  # not within the except: the error would keep all that main held alive
