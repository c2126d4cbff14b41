"""The register: every DICOM object that radloop wrote, with the sha256 of its bytes.

The one answer to "is this ours, and is it still what we wrote". No UID root and no
Manufacturer tells it: anybody may write both. An object is entered before it is
delivered, so that nothing of ours is ever unknown; entering it again is harmless.
No PHI: UIDs, digests, names of bundles, times.

RegisterRefusal             RL-1200
├── TwoContents             RL-1201   one UID, two contents: a defect, never overwritten
├── ResultUndescribed       RL-1202   a result file that result.json does not name
└── StateUnusable           RL-1203   the state folder can't be read or written
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from app.sqlite import connect
from operators.errors import Refusal

REGISTER_FILE = "register.sqlite"
RESULT_FILE = "result.json"  # operators.evidence.result writes it; its import would load highdicom
SCHEMA_VERSION = 1

Kind = Literal["SEG", "SR", "RTSTRUCT", "KEY_IMAGE", "PDF", "VERIFIED_SR", "KOS", "STATUS"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS written (
  sop_instance_uid TEXT PRIMARY KEY,
  sha256 TEXT NOT NULL,                -- of the file's bytes
  kind TEXT NOT NULL,                  -- one of Kind
  study_instance_uid TEXT NOT NULL,
  source_series_uid TEXT NOT NULL,     -- series that the result is about
  part TEXT NOT NULL,
  bundle TEXT NOT NULL,
  weights_sha256 TEXT NOT NULL,
  recorded_at TEXT NOT NULL            -- as the object bears it: YYYYMMDDHHMMSS
);
CREATE INDEX IF NOT EXISTS written_study ON written (study_instance_uid, kind);
"""


class RegisterRefusal(Refusal):
    """The register says no, or can't be asked."""

    code = "RL-1200"


class TwoContents(RegisterRefusal):
    """A UID that is in the register would get other bytes."""

    code = "RL-1201"

    def __init__(self, uid: str, known: str, new: str) -> None:
        super().__init__(
            f"object {uid} was written before with other bytes (sha256 {known[:12]}…, now "
            f"{new[:12]}…). It is not delivered: one UID must not name two contents. This is a "
            "defect of radloop, or an older output folder put back: report it with this line."
        )


class ResultUndescribed(RegisterRefusal):
    """A result can't be entered, since nothing says what it is."""

    code = "RL-1202"

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(
            f"{folder.name}/{name} is not described by {RESULT_FILE} beside it. It is not "
            "delivered: what is not in the register can't be told from another maker's object. "
            "`radloop studies retry` it."
        )


class StateUnusable(RegisterRefusal):
    """The state folder can't be used."""

    code = "RL-1203"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} can't be used ({why}). Make the folder writable for this user, or choose "
            "another (RADLOOP_STATE_DIR); `radloop serve` and the commands must share one."
        )


@dataclass(frozen=True)
class Written:
    """One object that we wrote.

    Attributes
    ----------
    sop_instance_uid, sha256 : str
        Which object, and the digest of its file's bytes.
    kind : Kind
        SEG, SR, RTSTRUCT, key image, PDF, the copy of an SR that bears a reader's verdict, the key
        object selection that rejects some of them, or the one-line SR that says where an
        analysis stands.
    study_instance_uid, source_series_uid, part, bundle, weights_sha256 : str
        What it is about and whose result it is.
    recorded_at : str
        ``YYYYMMDDHHMMSS``, as the object bears it.
    """

    sop_instance_uid: str
    sha256: str
    kind: Kind
    study_instance_uid: str
    source_series_uid: str
    part: str
    bundle: str
    weights_sha256: str
    recorded_at: str


_COLUMNS = ", ".join(field.name for field in fields(Written))


class Register:
    """The register of one state folder; safe to share between threads and processes.

    Parameters
    ----------
    state_dir : Path
        Made if missing.

    Attributes
    ----------
    file : Path
        Where it is.

    Raises
    ------
    StateUnusable
        The folder or the file can't be used.
    """

    def __init__(self, state_dir: Path) -> None:
        self.file = state_dir / REGISTER_FILE
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateUnusable(state_dir, error.strerror or str(error)) from error
        try:
            with self._open() as connection:
                connection.executescript(_SCHEMA)
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise StateUnusable(self.file, str(error)) from error

    def enter(self, entries: Sequence[Written]) -> None:
        """Add objects; durable when this returns, all or none.

        An object that is there with the same bytes changes nothing.

        Raises
        ------
        TwoContents
            One is there with other bytes.
        sqlite3.Error
            The file can't be written.
        """
        marks = ", ".join("?" * len(fields(Written)))
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for entry in entries:
                known = _one(connection, entry.sop_instance_uid)
                if known is None:
                    connection.execute(
                        f"INSERT INTO written ({_COLUMNS}) VALUES ({marks})", astuple(entry)
                    )
                elif known.sha256 != entry.sha256:
                    raise TwoContents(entry.sop_instance_uid, known.sha256, entry.sha256)
            connection.execute("COMMIT")

    def find(self, sop_instance_uid: str) -> Written | None:
        """The object of that UID, or None where it is not ours."""
        with self._open() as connection:
            return _one(connection, sop_instance_uid)

    def in_study(self, study_instance_uid: str, kind: Kind) -> list[Written]:
        """Our objects of one kind in a study, oldest record first."""
        with self._open() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM written WHERE study_instance_uid = ? AND kind = ?"
                " ORDER BY recorded_at, rowid",
                (study_instance_uid, kind),
            )
            return [Written(*row) for row in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # A connection for each call: what a call did not commit is rolled back by its end.
        with closing(connect(self.file)) as connection:
            yield connection


def _one(connection: sqlite3.Connection, sop_instance_uid: str) -> Written | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM written WHERE sop_instance_uid = ?", (sop_instance_uid,)
    ).fetchone()
    return Written(*row) if row else None


def describe(folder: Path, names: Sequence[str]) -> list[Written]:
    """What the register has to know of the results in one output folder.

    Parameters
    ----------
    folder : Path
        With `result.json` as `operators.evidence.result` writes it.
    names : sequence of str
        DICOM files in it.

    Returns
    -------
    list of Written
        In the order of `names`.

    Raises
    ------
    ResultUndescribed
        `result.json` does not name one of them.
    FileNotFoundError
        A file or `result.json` is not there.
    """
    described = _described(folder) if names else {}
    entries = []
    for name in names:
        if name not in described:
            raise ResultUndescribed(folder, name)
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entries.append(Written(sha256=digest, **described[name]))
    return entries


def objects_in(folder: Path) -> list[tuple[Path, Written]]:
    """Every object in an output folder that `result.json` describes and that is still there."""
    if not (folder / RESULT_FILE).is_file():
        return []
    names = [name for name in _described(folder) if (folder / name).is_file()]
    return [
        (folder / name, entry) for name, entry in zip(names, describe(folder, names), strict=True)
    ]


def _described(folder: Path) -> dict[str, dict[str, Any]]:
    """File name → fields of `Written` but the digest; empty where result.json is no such file."""
    try:
        result = json.loads((folder / RESULT_FILE).read_bytes())
        described = {
            Path(item["path"]).name: {
                "sop_instance_uid": item["sop_instance_uid"],
                "kind": item["kind"],
                "study_instance_uid": entry["study_instance_uid"],
                "source_series_uid": entry["series_instance_uid"],
                "part": entry["part"],
                "bundle": entry["bundle"],
                "weights_sha256": entry["weights_sha256"],
                "recorded_at": result["recorded_at"],
            }
            for entry in result["results"]
            for item in entry["evidence"]
        }
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: values for name, values in described.items() if values["kind"] in get_args(Kind)}
