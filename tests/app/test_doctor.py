"""The doctor, as a person runs it: it names what is missing, how to get it, and exits so."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.demo.orthanc import free_port

ROOT = Path(__file__).parents[2]
Ask = Callable[..., tuple[int, dict[str, Any]]]

# Makes a machine that lacks some modules, for the doctor and for the children it asks.
HIDE = """
import os, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["HIDE"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
class HiddenSpec(Hidden):
    pass
import importlib.util
real = importlib.util.find_spec
def find_spec(name, package=None):
    return None if name.split(".")[0] in os.environ["HIDE"].split(",") else real(name, package)
importlib.util.find_spec = find_spec
sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Run `radloop doctor --json` in an empty folder; exit code, and checks by name."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HIDE)

    def run(*, hide: str = "nothing", **settings: object) -> tuple[int, dict[str, Any]]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
        own = {"port": free_port(), "host": "127.0.0.1", "min_free_bytes": 0, **settings}
        done = subprocess.run(
            [sys.executable, "-m", "app.cli.main", "doctor", "--json"],
            cwd=tmp_path,
            env={
                **clean,
                "HIDE": hide,
                "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}",
                **{f"RADLOOP_{name.upper()}": str(value) for name, value in own.items()},
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        answer = json.loads(done.stdout)
        assert answer["ok"] is (done.returncode == 0)
        return done.returncode, {check["name"]: check for check in answer["checks"]} | {
            "": answer["settings"]
        }

    return run


def missing(checks: dict[str, Any]) -> set[str]:
    """Required and not met, bundles left aside: their weights are another test's business."""
    return {
        name
        for name, check in checks.items()
        if name and check["required"] and check["status"] == "missing" and "bundle" not in name
    }


def test_a_machine_that_has_everything_lacks_nothing(ask: Ask, tmp_path: Path) -> None:
    code, checks = ask()

    assert missing(checks) == set()
    assert code in (0, 1)
    bad_bundles = [
        name
        for name, check in checks.items()
        if name.startswith("bundle") and check["required"] and check["status"] != "ok"
    ]
    assert code == (1 if bad_bundles else 0)
    assert checks["access"]["status"] == checks["destination"]["status"] == "warning"
    assert not (tmp_path / "var").exists()  # it only looked
    assert checks[""]["ae_title"] == "RADLOOP"


@pytest.mark.parametrize(
    ("hide", "name", "remedy"),
    [
        ("highdicom", "highdicom", "make setup"),
        ("holoscan", "holoscan", "make setup"),
        ("gdcm,pylibjpeg,jpeg_ls,PIL", "decoder python-gdcm", "pip install python-gdcm"),
        ("openjpeg,gdcm,PIL", "decoder pylibjpeg-openjpeg", "pip install pylibjpeg-openjpeg"),
    ],
)
def test_what_is_missing_is_named_with_the_way_to_get_it(
    ask: Ask, hide: str, name: str, remedy: str
) -> None:
    code, checks = ask(hide=hide)

    assert code == 1
    assert name in missing(checks)
    assert remedy in checks[name]["remedy"]


def test_what_the_viewer_needs_is_a_warning_only(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _, checks = ask()

    assert checks["OHIF build"]["status"] == checks["Chromium"]["status"] == "warning"
    assert checks["OHIF build"]["remedy"] == "make ohif"
    assert not checks["OHIF build"]["required"] and not checks["Chromium"]["required"]

    (tmp_path / "var" / "ohif").mkdir(parents=True)
    (tmp_path / "var" / "ohif" / "index.html").write_text("")
    (tmp_path / "chromium").touch(mode=0o755)
    _, checks = ask()
    assert checks["OHIF build"]["status"] == checks["Chromium"]["status"] == "ok"


def test_a_port_of_somebody_else_is_missing(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, checks = ask(port=port)

    assert code == 1
    assert checks[f"port {port}"]["status"] == "missing"
    assert f"sport = :{port}" in checks[f"port {port}"]["remedy"]


def test_a_destination_that_does_not_answer_is_missing_and_its_password_hidden(ask: Ask) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code, checks = ask(orthanc_url=url, orthanc_user="reader", orthanc_password="geheim")

    assert code == 1
    assert checks[f"Orthanc {url}/"]["found"].startswith("RL-0901")
    assert "geheim" not in json.dumps(checks)


def test_a_spool_that_cannot_be_written_is_missing(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    code, checks = ask(spool=tmp_path / "file" / "spool")

    assert code == 1
    assert checks["spool"]["status"] == "missing"


def test_a_reserve_that_is_reached_is_missing(ask: Ask) -> None:
    code, checks = ask(min_free_bytes=1 << 60)

    assert code == 1
    assert "nothing is accepted" in checks["spool"]["found"]


def test_wrong_settings_are_a_finding_and_the_rest_is_looked_at(ask: Ask) -> None:
    code, checks = ask(quiet_second=3)

    assert code == 1
    assert "did you mean quiet_seconds" in checks["settings"]["found"]
    assert checks["torch"]["status"] == "ok"
    assert checks[""] is None


def test_changed_weights_are_missing(ask: Ask, tmp_path: Path) -> None:
    import shutil

    bundles = tmp_path / "bundles"
    shutil.copytree(ROOT / "tests" / "bundles", bundles)
    code, checks = ask(bundles=bundles)
    assert checks["bundle hu_threshold"]["status"] == "ok"

    with (bundles / "hu_threshold" / "models" / "model.pt").open("ab") as weights:
        weights.write(b"\0")
    code, checks = ask(bundles=bundles)
    assert code == 1
    assert checks["bundle hu_threshold"]["found"].startswith("RL-0403")


def test_the_table_fits_a_terminal_and_says_what_to_do(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "doctor"],
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "RADLOOP_MIN_FREE_BYTES": "0"}
        | {"RADLOOP_PORT": str(free_port()), "RADLOOP_DELIVER_TO_FOLDER": "/proc/no"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 1
    assert "folder /proc/no: start it, or correct the setting" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_doctor_imports_no_network(tmp_path: Path) -> None:
    program = (
        "import sys; from app.doctor import examine; examine()\n"
        "print(sorted({'torch', 'monai', 'holoscan', 'highdicom'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "[]"


def test_what_serve_would_stumble_over_is_named_before_it_starts(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "routes.yaml").write_text("version: 1\nroutes:\n  - {id: a, bundles: nosuch}\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, checks = ask(
            routes=tmp_path / "routes.yaml",
            metrics_port=port,
            database_url=f"postgresql://radloop:geheim@127.0.0.1:{free_port()}/radloop",
            audit_file=tmp_path / "routes.yaml" / "audit.xml",  # below a file
        )

    assert code == 1
    assert "RL-0652" in checks["routes"]["found"] and "nosuch" in checks["routes"]["found"]
    assert checks[f"metrics port {port}"]["status"] == "missing"
    assert "RL-0672" in checks["database"]["found"] and "geheim" not in str(checks)
    assert checks["audit file"]["status"] == "missing"


def test_a_misspelt_setting_is_one_finding_and_no_defect(ask: Ask) -> None:
    code, checks = ask(orthanc_ulr="x")

    assert code == 1
    assert "did you mean orthanc_url" in checks["settings"]["found"]
    assert "the check itself broke" not in str(checks)
