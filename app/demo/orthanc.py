"""A private Orthanc on loopback, for the demo and the tests: started, asked, stopped.

Its folder holds the configuration, the storage and the log. It is stopped with
SIGTERM; never by `/tools/reset`, after which it ignores the signal.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from operators.errors import Refusal

CANDIDATES = ("Orthanc", "/usr/sbin/Orthanc")  # Debian keeps it out of a user's PATH
DICOMWEB_PLUGIN = "libOrthancDicomWeb.so"
PLUGIN_FOLDERS = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"))
START_SECONDS = 30.0
STOP_SECONDS = 15.0
LOG_LINES = 5


class OrthancMissing(Refusal):
    """No Orthanc binary."""

    code = "RL-0620"

    def __init__(self) -> None:
        super().__init__(
            "Orthanc is not installed (looked for it in PATH and /usr/sbin). "
            "`apt-get install orthanc orthanc-dicomweb` gets it."
        )


class DemoPortTaken(Refusal):
    """A loopback port that Orthanc was to use is taken."""

    code = "RL-0621"

    def __init__(self, port: int, use: str) -> None:
        super().__init__(
            f"port {port} ({use}) is taken. `ss -ltnp 'sport = :{port}'` shows by whom; "
            "stop that, or choose another port."
        )


class OrthancFailed(Refusal):
    """Orthanc ended, or did not answer in time."""

    code = "RL-0622"

    def __init__(self, what: str, log: Path, tail: str) -> None:
        super().__init__(f"Orthanc {what}. The end of its log {log}:\n{tail}")


@dataclass(frozen=True)
class Orthanc:
    """A running private Orthanc.

    Attributes
    ----------
    url : str
        REST root, without a slash at its end.
    aet, host, dicom_port : str, str, int
        Where it takes C-STORE.
    folder : Path
        Everything it writes.
    pid : int
        Its process.
    has_dicomweb : bool
        Whether ``url + "/dicom-web"`` is there.
    """

    url: str
    aet: str
    host: str
    dicom_port: int
    folder: Path
    pid: int
    has_dicomweb: bool


def find_orthanc() -> str | None:
    """Path of the Orthanc binary, or None."""
    return next((found for name in CANDIDATES if (found := shutil.which(name))), None)


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int, use: str) -> None:
    """Refuse a loopback port that is taken.

    Raises
    ------
    DemoPortTaken
        Somebody listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoPortTaken(port, use) from error


@contextmanager
def running_orthanc(
    folder: Path,
    *,
    http_port: int | None = None,
    dicom_port: int | None = None,
    aet: str = "ORTHANC",
    overwrite: bool = True,
    modalities: dict[str, tuple[str, str, int]] | None = None,
) -> Iterator[Orthanc]:
    """Orthanc while the block runs.

    Parameters
    ----------
    folder : Path
        Private to this Orthanc; made if missing, kept afterwards.
    http_port, dicom_port : int or None
        Loopback ports; None takes free ones.
    aet : str
        Its AE title.
    overwrite : bool
        Its `OverwriteInstances`.
    modalities : dict or None
        Peers by name: (AE title, host, port).

    Raises
    ------
    OrthancMissing
        Not installed.
    DemoPortTaken
        A given port is taken.
    OrthancFailed
        It does not start.
    """
    binary = find_orthanc()
    if binary is None:
        raise OrthancMissing
    http_port, dicom_port = http_port or free_port(), dicom_port or free_port()
    require_free(http_port, "Orthanc's REST interface")
    require_free(dicom_port, "Orthanc's C-STORE")
    plugin = _dicomweb_plugin()
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "orthanc.json", folder / "orthanc.log"
    config.write_text(
        json.dumps(
            {
                "Name": "radloop private",
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "index"),
                "HttpPort": http_port,
                "DicomPort": dicom_port,
                "DicomAet": aet,
                "DicomCheckCalledAet": False,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "SyncStorageArea": True,
                "OverwriteInstances": overwrite,
                "StableAge": 2,
                "DicomModalities": {name: list(peer) for name, peer in (modalities or {}).items()},
                "UserMetadata": {"Verdict": 1024, "RadloopState": 1025},
                "Plugins": [str(plugin)] if plugin else [],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            },
            indent=1,
        )
    )
    url = f"http://127.0.0.1:{http_port}"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [binary, str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Debian's build waits 45 ms per C-STORE answer for Nagle without this.
            env={**os.environ, "TCP_NODELAY": "1"},
            start_new_session=True,  # a Ctrl-C is ours: Orthanc is stopped after its clients
        )
    try:
        _wait_for_rest(process, url, log)
        yield Orthanc(
            url, aet, "127.0.0.1", dicom_port, folder, process.pid, has_dicomweb=plugin is not None
        )
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _dicomweb_plugin() -> Path | None:
    return next(
        (path for folder in PLUGIN_FOLDERS if (path := folder / DICOMWEB_PLUGIN).exists()), None
    )


def _wait_for_rest(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    # Not through a proxy that the environment may name: this is loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise OrthancFailed(f"ended with status {process.returncode}", log, _tail(log))
        try:
            with opener.open(f"{url}/system", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise OrthancFailed(f"did not answer on {url} in {START_SECONDS:g} s", log, _tail(log))


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
