"""Which patients judge and which teach: drawn once per patient, never again.

The draw is a hash, so that the order of arrival plays no part. It is written down at
first sight: a later change of the fraction moves nobody from one side to the other.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from contextlib import AbstractContextManager
from typing import IO, Literal, cast, get_args

from training.refusals import StateDamaged
from training.state import StateDir, append_line, locked, read_lines, write_durably

Split = Literal["holdout", "validation", "train"]
VALIDATION_FRACTION = 0.2  # of the patients that are not held out


class Patients:
    """Keys and splits of patients.

    Parameters
    ----------
    state : StateDir
        Holds the salt and the splits.
    holdout_fraction : float
        Share of new patients that is held out.

    Raises
    ------
    StateDamaged
        There are splits, but the salt that their keys were made with is gone.
    """

    def __init__(self, state: StateDir, holdout_fraction: float) -> None:
        self._state, self._fraction = state, holdout_fraction
        with self._lock():
            self._salt = self._read_salt()

    def _lock(self) -> AbstractContextManager[IO[str]]:
        return locked(self._state.root / "holdout.lock", "collect", wait=True)

    def _read_salt(self) -> bytes:
        file = self._state.salt_file
        if not file.exists():
            if read_lines(self._state.holdout_file):
                raise StateDamaged(file, "is gone, and every patient would be drawn again")
            write_durably(file, secrets.token_hex(32).encode(), mode=0o600)
        return file.read_bytes()

    def key(self, issuer: str, patient_id: str) -> str:
        """A patient's key: the same here for ever, of no use anywhere else.

        Parameters
        ----------
        issuer, patient_id : str
            IssuerOfPatientID (0010,0021) and PatientID (0010,0020), as
            `operators.study.identity` reads them.
        """
        return self._hash(json.dumps([issuer, patient_id]))

    def split(self, key: str) -> Split:
        """Where a patient belongs; drawn and written down where it is new."""
        with self._lock():
            for entry in read_lines(self._state.holdout_file):
                if entry.get("patient") == key:
                    return self._checked(entry.get("split"))
            drawn = self._draw(key)
            entry = {"patient": key, "split": drawn, "holdout_fraction": self._fraction}
            append_line(self._state.holdout_file, entry)
            return drawn

    def _checked(self, split: object) -> Split:
        for known in get_args(Split):
            if split == known:
                return cast(Split, known)
        raise StateDamaged(self._state.holdout_file, "names a split that does not exist")

    def _draw(self, key: str) -> Split:
        if self._chance("holdout", key) < self._fraction:
            return "holdout"
        return "validation" if self._chance("validation", key) < VALIDATION_FRACTION else "train"

    def _chance(self, what: str, key: str) -> float:
        """A number from 0 to 1 that only this patient has."""
        return int(self._hash(f"{what} {key}")[:13], 16) / 16**13

    def _hash(self, text: str) -> str:
        return hashlib.sha256(self._salt + b"\0" + text.encode()).hexdigest()


def count_held_out(state: StateDir) -> int:
    """Patients that are held out, of all bundles."""
    return sum(entry.get("split") == "holdout" for entry in read_lines(state.holdout_file))
