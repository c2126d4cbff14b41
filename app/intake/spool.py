"""The spool: where the bytes of an instance are safe before its sender is told so.

    incoming/    temporary files, swept at start
    instances/   ab/<hash of UID>-<digest>.dcm, 256 folders
    work/        inputs of studies in analysis, hard links, swept at start
    journal.db   what was received, and what became of each study

Names come from hashes, never from what a peer sent. The digest is of the data
set as it came and its transfer syntax, without our file meta: the same instance sent again
lands on the
same name, and the same UID with other bytes on another.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoRoomError(OSError):
    """The disk is full, or would be filled beyond the reserve."""


@dataclass(frozen=True)
class Kept:
    """An instance that a power cut can't take any more.

    Attributes
    ----------
    name : str
        Path below `spool/instances`, of hexadecimal digits only.
    digest : str
        sha256 of the data set, hexadecimal.
    size : int
        Bytes of the file, file meta included.
    """

    name: str
    digest: str
    size: int


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable: a renamed file is not before this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Spool:
    """A folder that keeps instances.

    Parameters
    ----------
    root : Path
        The spool; made where it does not exist.
    min_free_bytes : int
        Reserve on its disk, bytes.

    Raises
    ------
    OSError
        It can't be made or written.
    """

    def __init__(self, root: Path, min_free_bytes: int = 0) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.instances = root / "instances"
        self.work = root / "work"
        self.journal_file = root / "journal.db"
        self.min_free_bytes = min_free_bytes
        for folder in (self.incoming, self.instances, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        for number in range(256):
            (self.instances / f"{number:02x}").mkdir(exist_ok=True)
        for folder in (self.instances, self.root):
            sync_folder(folder)

    def sweep(self) -> int:
        """Remove what an earlier run left half done; the number of temporary files.

        Only while no listener and no worker run on this spool.
        """
        leftovers = list(self.incoming.iterdir())
        for leftover in leftovers:
            leftover.unlink()
        for folder in self.work.iterdir():
            shutil.rmtree(folder)
        return len(leftovers)

    def path(self, name: str) -> Path:
        """Where the instance of that name lies."""
        return self.instances / name

    def keep(
        self, sop_instance_uid: str, head: bytes, dataset: bytes, transfer_syntax: str = ""
    ) -> Kept:
        """Write one instance, durably.

        Parameters
        ----------
        sop_instance_uid : str
            Only hashed.
        head : bytes
            Preamble, prefix and file meta (PS3.10 7.1).
        dataset : bytes
            The data set as received, in the transfer syntax that `head` names.
        transfer_syntax : str
            Its UID, part of the digest: the same bytes mean another thing in another one.

        Raises
        ------
        NoRoomError
            Disk full or reserve reached; nothing is kept.
        OSError
            Any other failure; nothing is kept.
        """
        size = len(head) + len(dataset)
        free = shutil.disk_usage(self.incoming).free
        if free - size < self.min_free_bytes:
            raise NoRoomError(errno.ENOSPC, f"{free} bytes free, reserve {self.min_free_bytes}")
        digest = hashlib.sha256(transfer_syntax.encode() + b"\0" + dataset).hexdigest()
        uid_hash = hashlib.sha256(sop_instance_uid.encode("ascii")).hexdigest()[:32]
        final = self.instances / uid_hash[:2] / f"{uid_hash}-{digest}.dcm"
        # A file of that name was fsynced before it got the name. Its folder may not have been,
        # if the power failed in between: sync it in any case.
        if not final.exists():
            self._write(final, head, dataset)
        sync_folder(final.parent)
        return Kept(f"{uid_hash[:2]}/{final.name}", digest, size)

    def _write(self, final: Path, head: bytes, dataset: bytes) -> None:
        temporary = self.incoming / uuid.uuid4().hex
        try:
            with temporary.open("xb") as file:
                file.write(head)
                file.write(dataset)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(final)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in _NO_ROOM:
                raise NoRoomError(error.errno, "disk full") from error
            raise
