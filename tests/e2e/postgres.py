"""A PostgreSQL of its own for a test: in a temporary folder, on a socket and a free port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.demo.orthanc import free_port


def find_postgres() -> Path | None:
    """Folder of Debian's newest server programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


@contextmanager
def running_postgres() -> Iterator[str]:
    """A server with an empty database; its URL.

    It refuses to run as root, so it runs as `postgres` then.
    """
    programs = find_postgres()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="radloop-pg-"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    shutil.chown(folder, user)
    port, data = free_port(), folder / "data"

    def run(*command: object) -> None:
        subprocess.run(
            [str(word) for word in command],
            check=True,
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    run(programs / "initdb", "-D", data, "-U", "radloop", "-A", "trust", "-N", "-E", "UTF8")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    run(programs / "pg_ctl", "-D", data, "-w", "-o", options, "-l", folder / "log", "start")
    try:
        run(programs / "createdb", "-h", "127.0.0.1", "-p", port, "-U", "radloop", "radloop")
        yield f"postgresql://radloop@127.0.0.1:{port}/radloop"
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
