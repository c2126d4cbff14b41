"""A folder, local or mounted: a copy of every result, whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from app.delivery.destination import DestinationUnreachable, ReadBackDiffers


class FolderDestination:
    """A folder; its files are named as in the output folder, below the study version's name.

    Parameters
    ----------
    root : Path
        Made where it does not exist.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

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
        descriptor = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
