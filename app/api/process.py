"""Main function of the API process: uvicorn on a socket that the service holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection

from app.settings import Settings

KEEP_ALIVE_SECONDS = 5
MOST_CONNECTIONS = 64
WORKER_START_SECONDS = 300.0


def run_api(settings: Settings, listening: socket.socket, connection: Connection) -> None:
    """Serve until the service says stop; ends at once when the service is gone.

    SIGINT and SIGTERM are blocked (`app.child`).

    Parameters
    ----------
    settings : Settings
        What the site decided.
    listening : socket.socket
        Bound and listening.
    connection : Connection
        To the service; see `desk`.
    """
    from app.quiet import silence_libraries

    os.umask(0o077)
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    logging.getLogger("radloop.api").setLevel(logging.INFO)
    # Its lines quote the exception or the request line, and both may quote a patient.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    silence_libraries()
    asyncio.run(_serve(settings, listening, connection))


async def _serve(settings: Settings, listening: socket.socket, connection: Connection) -> None:
    import uvicorn

    from app.api.counter import Counter
    from app.api.desk import api_folder
    from app.api.gate import Gate
    from app.api.jobs import Jobs
    from app.api.site import create_app
    from app.compare.claude import Claude

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are the parent's

    def stop() -> None:
        server.should_exit = True

    # Ours may have to wait for one study and for a worker that starts again.
    patience_s = 2 * settings.study_timeout_s + WORKER_START_SECONDS
    counter = Counter(connection, api_folder(settings.spool), patience_s, stop)
    jobs = Jobs(settings.state_dir)
    jobs.recover()
    app = create_app(settings, counter, Claude(settings), jobs)
    server = Server(
        uvicorn.Config(
            Gate(app, settings),
            http="h11",  # bounded in the size of headers
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(settings.stop_seconds) + 1,
        )
    )
    await server.serve(sockets=[listening])
    await jobs.stop()
    await counter.settled()
