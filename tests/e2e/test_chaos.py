"""Kill -9, over and over, at random moments: what was acknowledged is analysed, once.

Listener, worker, the whole service and Orthanc are killed while a sender sends studies
in pieces, again and again until each instance is acknowledged, as a PACS does. In the
end Orthanc must hold exactly one SEG and one SR for each study, made of every instance
of it: none lost, none doubled, no older version left.

RADLOOP_CHAOS_KILLS (30; `make chaos`: 200) and RADLOOP_CHAOS_SEED (random, printed).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pydicom
import pytest

from app.demo.orthanc import find_orthanc, free_port, running_orthanc
from tests.app.conftest import until
from tests.app.instances import STUDY, instance, write
from tests.e2e.serving import STORESCU, Served, archived, serve, storescu, stub

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]
KILLS = int(os.environ.get("RADLOOP_CHAOS_KILLS", "30"))
SEED = int(os.environ.get("RADLOOP_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
STUDIES, INSTANCES = 12, 6
TARGETS = ("listener", "worker", "service", "orthanc")
SETTLE_SECONDS = 240.0


@dataclass
class Stage:
    """Service and Orthanc on fixed ports, each replaced when it was killed."""

    folder: Path
    dice: random.Random
    http_port: int = field(default_factory=free_port)
    dicom_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    kills: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    served: Served | None = None

    def __post_init__(self) -> None:
        self._service, self._orthanc = ExitStack(), ExitStack()
        self._orthanc_pid = 0

    def start_orthanc(self) -> None:
        made = running_orthanc(
            self.folder / "orthanc", http_port=self.http_port, dicom_port=self.dicom_port
        )
        self._orthanc_pid = self._orthanc.enter_context(made).pid

    def start_service(self) -> None:
        url = f"http://127.0.0.1:{self.http_port}"
        self.served = self._service.enter_context(
            serve(self.folder, stub("evidence"), port=self.port, orthanc_url=url)
        )

    def close(self) -> None:
        self._service.close()
        self._orthanc.close()
        if self.served is not None:
            self.lines += self.served.lines

    def kill_one(self) -> None:
        target = self.dice.choice(TARGETS)
        assert self.served is not None
        if target == "orthanc":
            psutil.Process(self._orthanc_pid).kill()
            self._orthanc.close()
            time.sleep(self.dice.random())
            self.start_orthanc()
        elif target == "service":
            self.served.process.kill()
            self._service.close()
            self.lines += self.served.lines
            self.start_service()
        else:
            found = self._child(target)
            if found is None:
                return  # it is being replaced this moment: no kill
            found.kill()
        self.kills[target] += 1

    def _child(self, target: str) -> psutil.Process | None:
        assert self.served is not None
        try:
            children = [
                child
                for child in self.served.children()
                if "resource_tracker" not in " ".join(child.cmdline())
            ]
            listening = [
                child
                for child in children
                if any(c.laddr.port == self.port for c in child.net_connections("tcp"))
            ]
        except psutil.NoSuchProcess:
            return None
        found = listening if target == "listener" else [c for c in children if c not in listening]
        return self.dice.choice(found) if found else None


@contextmanager
def stage(folder: Path, dice: random.Random) -> Iterator[Stage]:
    made = Stage(folder, dice)
    try:
        made.start_orthanc()
        made.start_service()
        yield made
    finally:
        made.close()


def send_all(port: int, folder: Path, dice: random.Random, stop: threading.Event) -> None:
    """Every study in two pieces, some time apart; what is not acknowledged is sent again."""
    pieces: list[list[Path]] = []
    for number in range(STUDIES):
        uid = f"{STUDY}.{number + 1}"
        files = write(folder / uid, *(instance(k + 1, study=uid) for k in range(INSTANCES)))
        cut = dice.randrange(1, INSTANCES)
        pieces += [files[:cut], files[cut:]]
    dice.shuffle(pieces)
    while pieces and not stop.is_set():
        piece = pieces.pop()
        acknowledged = storescu(port, *piece, check=False)
        left = [path for path, was in zip(piece, acknowledged, strict=True) if not was]
        if left:
            pieces.insert(0, left)
            time.sleep(0.2)
        time.sleep(dice.random() * KILLS / 30)


def problems(found: list[pydicom.Dataset]) -> list[str]:
    """What is lost, doubled or stale, in words."""
    wanted = {f"{STUDY}.{number + 1}" for number in range(STUDIES)}
    said = [
        f"nobody's study {d.StudyInstanceUID}" for d in found if d.StudyInstanceUID not in wanted
    ]
    for uid in sorted(wanted):
        mine = [dataset for dataset in found if dataset.StudyInstanceUID == uid]
        kinds = sorted(str(dataset.Modality) for dataset in mine)
        if kinds != ["SEG", "SR"]:
            said.append(f"{uid} holds {kinds}")
        said += [
            f"{uid} {dataset.Modality} was made of {dataset.ImageComments}"
            for dataset in mine
            if dataset.ImageComments != f"{INSTANCES} instances"
        ]
    return said


def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    print(f"RADLOOP_CHAOS_SEED={SEED} RADLOOP_CHAOS_KILLS={KILLS}")
    dice, stop = random.Random(SEED), threading.Event()
    with stage(tmp_path, dice) as running:
        sender = threading.Thread(
            target=send_all, args=(running.port, tmp_path / "in", random.Random(SEED + 1), stop)
        )
        sender.start()
        try:
            while running.kills.total() < KILLS:
                time.sleep(dice.uniform(0.05, 1.5))
                running.kill_one()
            until(lambda: not sender.is_alive(), SETTLE_SECONDS)
            url = f"http://127.0.0.1:{running.http_port}"
            deadline = time.monotonic() + SETTLE_SECONDS
            while wrong := problems(archived(url)):
                assert time.monotonic() < deadline, (dict(running.kills), wrong)
                time.sleep(1)
            time.sleep(3)  # nothing comes after it
            assert problems(archived(url)) == []
        finally:
            stop.set()
            sender.join()
    print(f"kills: {dict(running.kills)}")
    assert running.kills.total() >= KILLS
    said = "\n".join(running.lines)
    assert ": failed" not in said, said
    # A child whose parent is killed while it is being started says so in its own way.
    assert all("spawn_main" in after[:200] for after in said.split("Traceback")[1:]), said
