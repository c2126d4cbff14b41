"""A folder, local or mounted: a copy of every result, whole or not there.

A withdrawn copy is removed, not moved aside: whoever watches the folder would find it
again under its new name. Ours stays in the output folder.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from app.delivery.destination import DestinationUnreachable, NotWithdrawn, ReadBackDiffers
from app.intake.spool import sync_folder


class FolderDestination:
    """A folder; its files are named as in the output folder, below the study version's name.

    Parameters
    ----------
    root : Path
        Made where it does not exist.
    key : str
        By which rules name it.
    """

    def __init__(self, root: Path, key: str = "folder") -> None:
        self._root, self.key = root, key

    @property
    def name(self) -> str:
        """Kind and path."""
        return f"folder {self._root}"

    def deliver(self, files: Sequence[Path]) -> None:
        """Copy each file beside its final name, fsync, compare, rename."""
        for file in files:
            content = file.read_bytes()
            final = self._root / file.parent.name / file.name
            try:
                self._write(final, content)
                held = final.read_bytes()
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise DestinationUnreachable(self.name, why) from error
            if held != content:
                raise ReadBackDiffers(self.name, file.name, len(content), len(held))

    def withdraw(self, files: Sequence[Path], because: str, recorded_at: str) -> None:
        """Remove each copy that is still the file's, and its folder when that is empty."""
        changed = None
        for file in files:
            content = file.read_bytes()
            copy = self._root / file.parent.name / file.name
            try:
                if not copy.exists():
                    self._root.stat()  # a share that is not mounted has no copies either
                elif copy.read_bytes() != content:
                    changed = file.name
                else:
                    copy.unlink()
                    sync_folder(copy.parent)
                    if not any(copy.parent.iterdir()):
                        copy.parent.rmdir()
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise DestinationUnreachable(self.name, why) from error
        if changed is not None:
            raise NotWithdrawn(self.name, changed)

    def self_test(self) -> str:
        """Write and remove an empty file."""
        probe = self._root / f".radloop-{uuid.uuid4().hex}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise DestinationUnreachable(self.name, error.strerror or "not writable") from error
        return "writable"

    @staticmethod
    def _write(final: Path, content: bytes) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{uuid.uuid4().hex}")
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(final)
        sync_folder(final.parent)
