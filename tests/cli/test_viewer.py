"""`radloop viewer` as its user meets it, where things are missing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.demo.orthanc import find_orthanc, free_port, running_orthanc

ROOT = Path(__file__).parents[2]


def start(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """The command in a folder that has an OHIF build, or something like it."""
    (folder / "var" / "ohif").mkdir(parents=True, exist_ok=True)
    (folder / "var" / "ohif" / "index.html").write_text("the page")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", "viewer", *arguments],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str], *words: str) -> int:
    """Exit code of a command that ends by itself, after one sentence with these words."""
    said, _ = process.communicate(timeout=60)
    assert all(word in said for word in words) and "Traceback" not in said, said
    return int(process.returncode)


def test_without_an_orthanc_to_show_it_says_so(tmp_path: Path) -> None:
    assert ended(start(tmp_path), "RL-1502", "--orthanc") == 1


def test_without_a_build_it_says_how_to_get_one(tmp_path: Path) -> None:
    process = start(tmp_path, "--orthanc", "http://127.0.0.1:1", "--ohif", "nowhere")
    assert ended(process, "RL-1501", "make ohif") == 1


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        process = start(tmp_path, "--orthanc", "http://127.0.0.1:1", "--port", port)
        assert ended(process, "RL-1503", port) == 1


def test_an_address_with_a_password_in_it_is_refused_without_quoting_it(tmp_path: Path) -> None:
    process = start(tmp_path, "--orthanc", "http://reader:geheim@127.0.0.1:8042")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "RL-0600" in said and "geheim" not in said


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_waits_for_an_orthanc_that_is_down_and_a_signal_ends_it(
    tmp_path: Path, sent: signal.Signals
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    process = start(tmp_path, "--port", "0", RADLOOP_ORTHANC_URL=url)
    assert process.stdout is not None
    said = ""
    while "Ctrl-C" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    assert "RL-1521" in said and url in said

    process.send_signal(sent)
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert rest.strip() == "stopped"


@pytest.mark.orthanc
@pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed")
def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        process = start(tmp_path, "--port", "0", "--orthanc", orthanc.url, "--study", "1.2.3")
        assert ended(process, "RL-1504", "1.2.3") == 1
