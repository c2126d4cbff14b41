"""The spool: where the bytes of an instance are safe before its sender is told so.

    incoming/    temporary files, swept at start
    instances/   ab/<hash of UID>-<digest>.dcm, 256 folders
    work/        inputs of studies in analysis, hard links, swept at start
    journal.db   what was received, and what became of each study

Names come from hashes, never from what a peer sent. The digest is of the data
set as it came and its transfer syntax, without our file meta: the same instance
sent again lands on the same name, and the same UID with other bytes on another.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
ROOM_BYTES = 1 << 20  # of one instance for which room is asked at once
GATHER_BYTES = 64 << 10  # digested and written at once: pieces of a PDU's size cost twice as much
SYNC_BYTES = 64 << 20  # a large one is synced as it comes: its last sync must not outlast the peer


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
        BLAKE3 of transfer syntax and data set, hexadecimal, 64 digits.
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
    owner : str
        Begins the names of temporary files: whoever takes over after a kill knows what to sweep.

    Raises
    ------
    OSError
        It can't be made or written.
    """

    def __init__(self, root: Path, min_free_bytes: int = 0, owner: str = "0") -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.instances = root / "instances"
        self.work = root / "work"
        self.journal_file = root / "journal.db"
        self.min_free_bytes = min_free_bytes
        self.owner = owner
        for folder in (self.incoming, self.instances, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        for number in range(256):
            (self.instances / f"{number:02x}").mkdir(exist_ok=True)
        for folder in (self.instances, self.root):
            sync_folder(folder)

    def sweep(self, *, work: bool = True) -> int:
        """Remove what an earlier run left half done; the number of temporary files.

        Only while no listener runs on this spool; `work`, the inputs of analyses, only
        while no worker does.
        """
        leftovers = list(self.incoming.iterdir())
        for leftover in leftovers:
            leftover.unlink()
        for folder in self.work.iterdir() if work else ():
            shutil.rmtree(folder)
        return len(leftovers)

    def sweep_own(self) -> None:
        """Remove the temporary files of a killed predecessor with the same `owner`."""
        for leftover in self.incoming.glob(f"{self.owner}-*"):
            leftover.unlink()

    def path(self, name: str) -> Path:
        """Where the instance of that name lies."""
        return self.instances / name

    def require_room(self, size: int) -> None:
        """Refuse what would reach into the reserve.

        Raises
        ------
        NoRoomError
            `size` bytes more and less than the reserve would be free.
        """
        found = os.statvfs(self.incoming)
        free = found.f_bavail * found.f_frsize
        if free - size < self.min_free_bytes:
            raise NoRoomError(errno.ENOSPC, f"{free} bytes free, reserve {self.min_free_bytes}")

    def keep(
        self, sop_instance_uid: str, head: bytes, dataset: bytes, transfer_syntax: str = ""
    ) -> Kept:
        """Write one instance, durably; see `Draft` for the parameters.

        Raises
        ------
        NoRoomError
            Disk full or reserve reached; nothing is kept.
        OSError
            Any other failure; nothing is kept.
        """
        draft = Draft(self, sop_instance_uid, head, transfer_syntax)
        draft.write(dataset)
        return draft.keep()


class Draft:
    """An instance on its way in: its bytes go to a temporary file as they come.

    Parameters
    ----------
    spool : Spool
        Where it will be kept.
    sop_instance_uid : str
        Only hashed.
    head : bytes
        Preamble, prefix and file meta (PS3.10 7.1).
    transfer_syntax : str
        Its UID, part of the digest: the same bytes mean another thing in another one.
    """

    def __init__(
        self, spool: Spool, sop_instance_uid: str, head: bytes, transfer_syntax: str = ""
    ) -> None:
        self._spool, self._uid, self._head = spool, sop_instance_uid, head
        self._digest = blake3(transfer_syntax.encode() + b"\0")  # SHA-256 takes three times as long
        self._gathered = bytearray()
        self._temporary: Path | None = None
        self._descriptor: int | None = None
        self._unsynced = self._assured = 0
        self.size = 0

    def write(self, dataset: bytes | bytearray | memoryview) -> None:
        """Add bytes of the data set, as received, in the transfer syntax that the head names.

        Raises
        ------
        NoRoomError
            Disk full or reserve reached; nothing is kept.
        OSError
            Any other failure; nothing is kept.
        """
        if self._gathered or len(dataset) < GATHER_BYTES:
            self._gathered += dataset
            if len(self._gathered) < GATHER_BYTES:
                return
            dataset, self._gathered = self._gathered, bytearray()
        with self._nothing_left():
            self._put(dataset)
            if self._unsynced >= SYNC_BYTES:
                assert self._descriptor is not None
                os.fdatasync(self._descriptor)
                self._unsynced = 0

    def keep(self) -> Kept:
        """Make it durable under its name; the end of this draft.

        Raises
        ------
        NoRoomError
            Disk full or reserve reached; nothing is kept.
        OSError
            Any other failure; nothing is kept.
        """
        with self._nothing_left():
            self._put(self._gathered)
        digest = self._digest.hexdigest()
        uid_hash = hashlib.sha256(self._uid.encode("ascii")).hexdigest()[:32]
        name = f"{uid_hash[:2]}/{uid_hash}-{digest}.dcm"
        final = self._spool.instances / name
        # A file of that name was fsynced before it got the name. Its folder may not have been,
        # if the power failed in between: sync it in any case.
        if final.exists():
            self.discard()
        else:
            with self._nothing_left():
                assert self._descriptor is not None and self._temporary is not None
                os.fsync(self._descriptor)
                self._close()
                self._temporary.rename(final)
                self._temporary = None
        sync_folder(final.parent)
        return Kept(name, digest, self.size)

    def discard(self) -> None:
        """Forget it; no temporary file is left."""
        self._close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):  # a sweep will find it
                self._temporary.unlink()
            self._temporary = None

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        if self._descriptor is None:
            self._temporary = self._spool.incoming / f"{self._spool.owner}-{uuid.uuid4().hex}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o666)
            self._write(self._head)
        self._digest.update(data)
        self._write(data)
        self._unsynced += len(data)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        assert self._descriptor is not None
        if self.size + len(data) > self._assured:
            self._spool.require_room(len(data) + ROOM_BYTES)
            self._assured = self.size + len(data) + ROOM_BYTES
        view = memoryview(data)
        while view:  # a write may take a part only
            view = view[os.write(self._descriptor, view) :]
        self.size += len(data)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:  # forgotten first: it is closed even where closing complains
            os.close(descriptor)

    @contextlib.contextmanager
    def _nothing_left(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.discard()
            if error.errno in _NO_ROOM and not isinstance(error, NoRoomError):
                raise NoRoomError(error.errno, "disk full") from error
            raise
