"""What radloop needs of a machine: one small function for each thing, and none raises.

Heavy libraries are found, not imported; what only an import can tell (does the
graph load, which decoders work) is asked of short-lived child processes.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.delivery import from_settings
from app.intake.tls import TlsError, expires_at, listener_context
from app.settings import Settings, SettingsRefusal, load_settings, settings_file
from operators.errors import Refusal

Status = Literal["ok", "missing", "warning"]

REINSTALL = "`make setup`, or: pip install -c constraints.txt -e ."
CHILD_SECONDS = 60.0
TLS_WARNING_DAYS = 30
PIXELMED_JAR = Path("/usr/share/java/pixelmed.jar")
OHIF_PAGE = Path("var/ohif/index.html")
DECODERS = {  # package → what it decodes, by transfer syntax
    "python-gdcm": {
        "1.2.840.10008.1.2.4.50": "JPEG baseline",
        "1.2.840.10008.1.2.4.70": "JPEG lossless",
        "1.2.840.10008.1.2.4.80": "JPEG-LS",
    },
    "pylibjpeg-openjpeg": {"1.2.840.10008.1.2.4.90": "JPEG 2000"},
    "pylibjpeg-rle": {"1.2.840.10008.1.2.5": "RLE"},
}
_ASK_DECODERS = """
import json, sys
from pydicom.pixels import get_decoder
print(json.dumps({uid: get_decoder(uid).is_available for uid in sys.argv[1:]}))
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What.
    status : Status
        There, not there (or not working), or there with a remark.
    required : bool
        Whether radloop can't do its work without it.
    found : str
        What was seen.
    purpose : str
        What it is for.
    remedy : str
        How to get it; empty where all is well.
    """

    name: str
    status: Status
    required: bool
    found: str
    purpose: str
    remedy: str = ""


def examine() -> tuple[list[Check], Settings | None]:
    """Look at everything; the checks in the order of a table, and the settings in force.

    Returns
    -------
    tuple of (list of Check, Settings or None)
        None where the settings themselves are wrong; that is one of the checks.
    """
    try:
        settings: Settings | None = load_settings()
        file = settings_file()
        found = str(file) if file else "defaults and environment, no file"
        settings_check = Check("settings", "ok", True, found, "what this site decided")
    except SettingsRefusal as refusal:
        settings = None
        settings_check = Check(
            "settings",
            "missing",
            True,
            "; ".join(refusal.problems),
            "what this site decided",
            "mend the names and values that are listed",
        )
    steps: list[Callable[[], Iterator[Check]]] = [_bundles, lambda: iter([settings_check])]
    if settings is not None:
        in_force = settings
        steps += [
            lambda: _folders(in_force),
            lambda: _port(in_force),
            lambda: _access(in_force),
            lambda: _tls(in_force),
            lambda: _destinations(in_force),
            lambda: _routes(in_force),
            lambda: _database(in_force),
            lambda: _telemetry(in_force),
        ]
    # Children are asked meanwhile. Only they run beside anything: two threads that import the
    # same packages can meet a half-initialised module.
    with ThreadPoolExecutor(2) as pool:
        asked = pool.map(_guarded, [_graph, _decoders])
        installed = [*_guarded(_python), *_guarded(_libraries)]
        rest = [check for step in [*steps, _programs, _cuda] for check in _guarded(step)]
        from_children = [check for part in asked for check in part]
    return [*installed, *from_children, *rest], settings


def _guarded(step: Callable[[], Iterator[Check]]) -> list[Check]:
    """A check that breaks is a finding, not a traceback."""
    try:
        return list(step())
    except SettingsRefusal:
        return []  # that is a check of its own
    except Exception as error:  # noqa: BLE001
        name = getattr(step, "__name__", "check").strip("_")
        found = f"the check itself broke: {type(error).__name__}: {error}"
        return [Check(name, "missing", True, found, "", "report this line as a defect")]


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check(
        "Python",
        "ok" if fits else "missing",
        True,
        version,
        "3.11 to 3.13: the graph has wheels for no other",
        "" if fits else "make the environment with one of these: make PYTHON=python3.12 setup",
    )


def _libraries() -> Iterator[Check]:
    wanted = [
        ("torch", "torch", "runs the networks"),
        ("monai", "monai", "bundles and their transforms"),
        ("ignite", "pytorch-ignite", "MONAI's evaluators"),
        ("pydicom", "pydicom", "reads and writes DICOM"),
        ("pynetdicom", "pynetdicom", "C-STORE and C-ECHO"),
        ("highdicom", "highdicom", "SEG and SR that follow the standard"),
        ("orthanc_api_client", "orthanc-api-client", "delivery to Orthanc"),
        ("dicomweb_client", "dicomweb-client", "delivery to DICOMweb servers"),
    ]
    for module, package, purpose in wanted:
        if importlib.util.find_spec(module) is None:
            yield Check(package, "missing", True, "not installed", purpose, REINSTALL)
        else:
            yield Check(package, "ok", True, importlib.metadata.version(package), purpose)


def _child(*arguments: str) -> tuple[int, str]:
    """Exit status and what a Python child said: its output, or its last line of error."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"no answer in {CHILD_SECONDS:g} s"
    if done.returncode == 0:
        return 0, done.stdout.strip()
    return done.returncode, (done.stderr.strip().splitlines() or ["no message"])[-1]


def _graph() -> Iterator[Check]:
    purpose = "MONAI Deploy's graph; needs libcudart.so.13, but no GPU"
    if importlib.util.find_spec("holoscan") is None:
        yield Check("holoscan", "missing", True, "not installed", purpose, REINSTALL)
        return
    status, said = _child("-c", "import operators.core")
    if status == 0:
        yield Check("holoscan", "ok", True, importlib.metadata.version("holoscan-cu13"), purpose)
        return
    remedy = "pip install 'nvidia-cuda-runtime==13.0.*'" if "libcudart" in said else REINSTALL
    yield Check("holoscan", "missing", True, f"can't be imported: {said}", purpose, remedy)


def _decoders() -> Iterator[Check]:
    purpose = "images that arrive compressed"
    uids = [uid for syntaxes in DECODERS.values() for uid in syntaxes]
    status, said = _child("-c", _ASK_DECODERS, *uids)
    works = json.loads(said) if status == 0 else {}
    for package, syntaxes in DECODERS.items():
        name = f"decoder {package}"
        lacking = [what for uid, what in syntaxes.items() if not works.get(uid)]
        if lacking:
            found = f"can't decode {', '.join(lacking)}" + (f": {said}" if status else "")
            yield Check(name, "missing", True, found, purpose, f"pip install {package}")
        else:
            yield Check(name, "ok", True, ", ".join(syntaxes.values()), purpose)


def _bundles() -> Iterator[Check]:
    from app.bundle_folders import bundle_folders
    from operators.models.card import WeightsNotFetched, load_card, with_pin

    purpose = "a network, its card and weights that match their sha256"
    remedy = "install radloop again, or mend what is named; `radloop bundles list`"
    folders = [
        card.parent for root in bundle_folders() for card in sorted(root.glob("*/card.yaml"))
    ]
    if not folders:
        yield Check("bundles", "missing", True, "none installed", purpose, remedy)
    for folder in folders:
        try:
            card = with_pin(load_card(folder), bundle_folders())
            card.verify_weights()
            found = f"{card.version}, sha256 {card.weights_sha256[:12]}"
            yield Check(f"bundle {folder.name}", "ok", True, found, purpose)
        except WeightsNotFetched as error:
            bring = error.remedy.replace("`", "")
            yield Check(f"bundle {folder.name}", "missing", False, error.reason, purpose, bring)
        except (Refusal, OSError, ValueError) as error:
            found = error.reason if isinstance(error, Refusal) else str(error)
            yield Check(f"bundle {folder.name}", "missing", True, found, purpose, remedy)


def _folders(settings: Settings) -> Iterator[Check]:
    for name, folder in (("spool", settings.spool), ("results", settings.output_dir)):
        purpose = "keeps what was received" if name == "spool" else "keeps what was written"
        # The nearest folder that exists decides: `radloop serve` makes the rest.
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(nearest).free
        found = f"{folder}, {free / 2**30:.1f} GiB free"
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            remedy = f"make {nearest} a folder that this user may write (RADLOOP_SPOOL…)"
            yield Check(name, "missing", True, f"{nearest} can't be written", purpose, remedy)
        elif name == "spool" and free < settings.min_free_bytes:
            found += f", reserve {settings.min_free_bytes / 2**30:.1f} GiB: nothing is accepted"
            remedy = "free some disk, or lower min_free_bytes"
            yield Check(name, "missing", True, found, purpose, remedy)
        else:
            yield Check(name, "ok", True, found, purpose)


def _port(settings: Settings) -> Iterator[Check]:
    name, purpose = f"port {settings.port}", "where studies arrive by C-STORE"
    taken = _taken(settings.host, settings.port)
    if not taken:
        yield Check(name, "ok", True, f"free on {settings.host}", purpose)
    elif _is_served(settings.spool):
        yield Check(name, "ok", True, "`radloop serve` of this spool is running", purpose)
    else:
        found = f"{settings.host}: {taken}"
        remedy = f"`ss -ltnp 'sport = :{settings.port}'` shows who has it; or set RADLOOP_PORT"
        yield Check(name, "missing", True, found, purpose, remedy)


def _routes(settings: Settings) -> Iterator[Check]:
    """As `radloop serve` reads them at its start."""
    from app.routes.load import load_routes
    from app.routes.site import read_site

    if settings.routes is None:
        return
    purpose = "which studies go where"
    try:
        routes = load_routes(settings.routes, read_site(settings)[0])
    except Refusal as refusal:
        remedy = "mend the lines that are named; `radloop routes check` tries them"
        yield Check("routes", "missing", True, refusal.reason, purpose, remedy)
    else:
        found = f"{settings.routes}, {len(routes.routes)} routes"
        yield Check("routes", "ok", True, found, purpose)


def _database(settings: Settings) -> Iterator[Check]:
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    from app.workflow.board import with_driver
    from app.workflow.refusals import DatabaseUnusable

    if settings.database_url is None:
        return
    url, purpose = settings.database_url.get_secret_value(), "keeps the workflows"
    try:
        engine = create_engine(with_driver(url))
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        engine.dispose()
    except SQLAlchemyError as error:
        found = DatabaseUnusable(url, type(error).__name__).reason
        yield Check("database", "missing", True, found, purpose, "start it, or correct the address")
    else:
        yield Check("database", "ok", True, "answers", purpose)


def _telemetry(settings: Settings) -> Iterator[Check]:
    ports = [
        ("metrics", settings.metrics_host, settings.metrics_port, "what a monitor reads"),
        ("API", settings.api_host, settings.api_port, "the HTTP API"),
    ]
    for name, host, port, purpose in ports:
        if port and not _is_served(settings.spool):
            taken = _taken(host, port)
            remedy = f"`ss -ltnp 'sport = :{port}'` shows who has it" if taken else ""
            status: Status = "missing" if taken else "ok"
            found = f"{host}: {taken}" if taken else f"free on {host}"
            yield Check(f"{name} port {port}", status, True, found, purpose, remedy)
    if (file := settings.audit_file) is not None:
        nearest = next(place for place in (file, *file.parents) if place.exists())
        fits = os.access(nearest, os.W_OK) and (nearest == file or nearest.is_dir())
        found = str(file) if fits else f"{nearest} can't be written"
        remedy = "" if fits else "make it writable for this user, or choose another (audit_file)"
        yield Check("audit file", "ok" if fits else "missing", True, found, "who did what", remedy)


def _taken(host: str, port: int) -> str:
    """Why a port can't be had; empty where it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _is_served(spool: Path) -> bool:
    try:
        with (spool / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _access(settings: Settings) -> Iterator[Check]:
    purpose = "who may send"
    if settings.allowed_calling_aets or settings.allowed_addresses:
        listed = [*settings.allowed_calling_aets, *settings.allowed_addresses]
        yield Check("access", "ok", False, ", ".join(listed), purpose)
    else:
        remedy = "list them: allowed_calling_aets, allowed_addresses"
        found = "anyone who reaches the port: both lists are empty"
        yield Check("access", "warning", False, found, purpose, remedy)


def _tls(settings: Settings) -> Iterator[Check]:
    certificate, private_key = settings.tls_certificate, settings.tls_private_key
    purpose = "encryption of what arrives by C-STORE"
    try:
        context = listener_context(certificate, private_key, settings.tls_ca)
        if context is None or certificate is None or private_key is None:
            remedy = "set tls_certificate and tls_private_key, and tls_ca to ask for peers' ones"
            yield Check("TLS", "warning", False, "none: patient data comes plain", purpose, remedy)
            return
        ends = expires_at(certificate, private_key)
    except TlsError as error:
        yield Check("TLS", "missing", True, str(error), purpose, "mend the file that is named")
        return
    days = (ends - time.time()) / 86400
    found = f"{certificate} ends {time.strftime('%Y-%m-%d', time.gmtime(ends))}, in {days:.0f} days"
    found += ", peers must show one" if settings.tls_ca else ", peers need show none"
    if days < TLS_WARNING_DAYS:
        remedy = "renew it, then restart `radloop serve`"
        yield Check("TLS", "warning", False, found, purpose, remedy)
    else:
        yield Check("TLS", "ok", True, found, purpose)


def _destinations(settings: Settings) -> Iterator[Check]:
    purpose = "where results go"
    destinations = from_settings(settings)
    if not destinations:
        found = f"none: results stay in {settings.output_dir}"
        remedy = "set orthanc_url, deliver_to_stow, deliver_to_cstore or deliver_to_folder"
        yield Check("destination", "warning", False, found, purpose, remedy)
    for destination in destinations:
        try:
            yield Check(destination.name, "ok", True, destination.self_test(), purpose)
        except Refusal as refusal:
            remedy = "start it, or correct the setting; results wait for it meanwhile"
            yield Check(destination.name, "missing", True, refusal.reason, purpose, remedy)


def _programs() -> Iterator[Check]:
    from app.demo.orthanc import find_orthanc

    def beside(path: str) -> str | None:
        return path if Path(path).exists() else None

    wanted = [
        ("Orthanc", find_orthanc(), "demo and tests", "apt-get install orthanc orthanc-dicomweb"),
        # By path: pynetdicom puts another storescu into the environment.
        ("dcmtk", beside("/usr/bin/storescu"), "tests", "apt-get install dcmtk"),
        ("dciodvfy", shutil.which("dciodvfy"), "tests", "apt-get install dicom3tools"),
        (
            "PixelMed",
            beside(str(PIXELMED_JAR)) if shutil.which("java") else None,
            "tests",
            "apt-get install libpixelmed-java default-jre-headless",
        ),
        (
            "OHIF build",
            beside(str(OHIF_PAGE)),
            "`radloop viewer`",
            "make ohif",
        ),
        (
            "Chromium",
            shutil.which("chromium") or shutil.which("chromium-browser"),
            "the viewer's test",
            "apt-get install chromium",
        ),
    ]
    for name, found, purpose, remedy in wanted:
        if found:
            yield Check(name, "ok", False, found, purpose)
        else:
            yield Check(name, "warning", False, "not found", purpose, remedy)


def _cuda() -> Iterator[Check]:
    purpose = "faster networks; radloop works without"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        devices = count.value if works else 0
    except OSError:
        devices = 0
    if not devices:
        yield Check("CUDA device", "warning", False, "none", purpose, "none needed")
        return
    build = importlib.metadata.version("torch")
    if build.endswith("+cpu"):
        remedy = "install a CUDA build of torch to use it"
        found = f"{devices}, but torch {build} can't use it"
        yield Check("CUDA device", "warning", False, found, purpose, remedy)
    else:
        yield Check("CUDA device", "ok", False, str(devices), purpose)
