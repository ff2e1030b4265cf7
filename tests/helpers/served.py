"""A server on this machine that gives files, for downloads."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from typing import NamedTuple


class Server(NamedTuple):
    """What it has, what it was asked for, whether it answers now or waits, and where it listens."""

    files: dict[str, bytes]
    asked: list[str]
    open: threading.Event
    port: int

    @property
    def url(self) -> str:
        """Its address, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """Serve files by their names, until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            server.asked.append(name)
            server.open.wait(60)
            if name not in server.files:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.files[name])))
            self.end_headers()
            self.wfile.write(server.files[name])

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server = Server(dict(files), [], threading.Event(), listener.server_port)
        server.open.set()
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.open.set()
            listener.shutdown()
            thread.join()
