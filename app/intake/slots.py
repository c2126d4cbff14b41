"""How many associations there are, in all and by peer, over all listener processes.

A table in memory that the processes share. Each writes its own row only and reads
all of them, so that nothing is locked and a killed listener holds no lock: its
successor clears the row. Two that count at the same moment may both admit the
last one; a cap is a protection, not a licence.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
from collections import Counter
from ctypes import c_uint64
from typing import Any


def shared_table(listeners: int, max_associations: int) -> Any:
    """Memory for `Slots`, to be handed to the listener processes; all free.

    Returns
    -------
    ctypes array, shape (listeners * max_associations,), uint64
        Row after row; 0 is a free slot.
    """
    context = multiprocessing.get_context("spawn")
    return context.RawArray(c_uint64, listeners * max_associations)


class Slots:
    """One listener's view of the table.

    Parameters
    ----------
    table : ctypes array
        From `shared_table`.
    row : int
        This listener's, from 0.
    max_associations : int
        In all, and the length of a row.
    max_per_peer : int
        From one address.
    """

    def __init__(self, table: Any, row: int, max_associations: int, max_per_peer: int) -> None:
        self._table, self._max, self._max_per_peer = table, max_associations, max_per_peer
        self._own = range(row * max_associations, (row + 1) * max_associations)
        self._lock = threading.Lock()
        for slot in self._own:  # a predecessor that was killed
            table[slot] = 0

    def take(self, address: str) -> int | None:
        """A slot for a peer, or None where a cap is reached."""
        key = int.from_bytes(hashlib.blake2b(address.encode(), digest_size=8).digest()) or 1
        with self._lock:
            taken = [entry for entry in self._table if entry]
            if len(taken) >= self._max or taken.count(key) >= self._max_per_peer:
                return None
            slot = next(slot for slot in self._own if not self._table[slot])
            self._table[slot] = key
            return slot

    def release(self, slot: int) -> None:
        """Give a slot back."""
        self._table[slot] = 0

    @property
    def is_busiest(self) -> bool:
        """Whether another listener has fewer associations than this one."""
        counts = [
            sum(1 for entry in self._table[at : at + self._max] if entry)
            for at in range(0, len(self._table), self._max)
        ]
        return counts[self._own.start // self._max] > min(counts)


class Connections:
    """How many connections one listener has, those included that no association will come of.

    Parameters
    ----------
    most, most_per_peer : int
        In all, and from one address.
    """

    def __init__(self, most: int, most_per_peer: int) -> None:
        self._most, self._most_per_peer = most, most_per_peer
        self._by_peer: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, address: str) -> bool:
        """Count one more; False, and nothing counted, where a limit is reached."""
        with self._lock:
            if self._by_peer.total() >= self._most or self._by_peer[address] >= self._most_per_peer:
                return False
            self._by_peer[address] += 1
            return True

    def release(self, address: str) -> None:
        """It is closed."""
        with self._lock:
            self._by_peer[address] -= 1
            if not self._by_peer[address]:
                del self._by_peer[address]
