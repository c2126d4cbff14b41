"""The board: what the processes of one site tell each other, in the workflows' database.

    progress    what became of a study version; its reader, the ledger's process, takes it off
    current     the newest generation (version and trial) of each study: what is older ends
    heartbeats  which executors live

SQLite in WAL mode or PostgreSQL, by the URL. No PHI: UIDs, states, sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from app.sqlite import BUSY_SECONDS, make_shared

_METADATA = sa.MetaData()
_PROGRESS = sa.Table(
    "radloop_progress",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("journal", sa.String(16), nullable=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("event", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("results", sa.JSON, nullable=False),
    sa.Column("destinations", sa.JSON, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)
_CURRENT = sa.Table(
    "radloop_current",
    _METADATA,
    sa.Column("study", sa.String(96), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
)
_HEARTBEATS = sa.Table(
    "radloop_heartbeats",
    _METADATA,
    sa.Column("executor", sa.String(128), primary_key=True),
    sa.Column("beat", sa.Integer, nullable=False),
)


@dataclass(frozen=True)
class Progress:
    """One thing that happened to a study version.

    Attributes
    ----------
    journal : str
        Of which journal.
    study_uid, version, trial : str, int, int
        Which; `trial` counts how often a person asked for it again.
    event : str
        ``running``, ``again`` (a failed attempt, another follows), ``failed``, ``not
        applicable``, ``ended`` (its workflow is over and did not say how), ``delivering``
        (analysed; `results` and `destinations` say what and where), ``waiting`` (a
        destination can't be reached), ``delivered`` (to one).
    reason : str
        A sentence without PHI.
    results, destinations : tuple of str
        File names in the version's output folder; keys of destinations.
    attempts : int
        Analyses that ended badly so far.
    seconds : float
        What the step took that ended with it, s; 0 where none did.
    number : int
        Order on the board; 0 before it is there.
    """

    journal: str
    study_uid: str
    version: int
    trial: int
    event: str
    reason: str = ""
    results: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    attempts: int = 0
    seconds: float = 0.0
    number: int = field(default=0, compare=False)


class Board:
    """Shared by threads and processes.

    Parameters
    ----------
    url : str
        ``sqlite:///file`` or ``postgresql://…``.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError
        The database can't be used.
    """

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(with_driver(url), pool_pre_ping=True)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_immediately)
        _METADATA.create_all(self._engine)

    def report(self, entry: Progress) -> None:
        """Put one entry up; durable when this returns."""
        values = asdict(entry)
        del values["number"]
        with self._engine.begin() as connection:
            connection.execute(sa.insert(_PROGRESS).values(**values))

    def read(self, limit: int = 500) -> list[Progress]:
        """What is there, oldest first; it stays until it is taken off."""
        query = sa.select(_PROGRESS).order_by(_PROGRESS.c.number).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [_progress(dict(row)) for row in rows]

    def take_off(self, entries: Sequence[Progress]) -> None:
        """Remove entries that are in the ledger now."""
        # By their numbers and not "up to the last": a transaction of another process may
        # have taken a smaller number and commit later.
        numbers = [entry.number for entry in entries]
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_PROGRESS).where(_PROGRESS.c.number.in_(numbers)))

    def set_current(self, study: str, generation: int) -> None:
        """From now on older generations of the study are superseded; never goes back."""
        mine = _CURRENT.c.study == study
        with self._engine.begin() as connection:
            known = connection.execute(sa.select(_CURRENT.c.generation).where(mine)).scalar()
            if known is None:
                connection.execute(sa.insert(_CURRENT).values(study=study, generation=generation))
            elif known < generation:
                connection.execute(sa.update(_CURRENT).where(mine).values(generation=generation))

    def is_current(self, study: str, generation: int) -> bool:
        """Whether no newer generation is known."""
        query = sa.select(_CURRENT.c.generation).where(_CURRENT.c.study == study)
        with self._reading() as connection:
            known = connection.execute(query).scalar()
        return known is None or known <= generation

    def beat(self, executor: str) -> None:
        """Say that this executor lives."""
        mine = _HEARTBEATS.c.executor == executor
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(_HEARTBEATS).where(mine).values(beat=_HEARTBEATS.c.beat + 1)
            )
            if changed.rowcount == 0:
                connection.execute(sa.insert(_HEARTBEATS).values(executor=executor, beat=1))

    def beats(self) -> dict[str, int]:
        """The count of every executor: one whose count stands still is dead."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(_HEARTBEATS.c.executor, _HEARTBEATS.c.beat))
            return {str(row.executor): int(row.beat) for row in rows}

    def forget(self, executor: str) -> None:
        """It has ended, and nothing of it is left."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_HEARTBEATS).where(_HEARTBEATS.c.executor == executor))

    def _reading(self) -> sa.Connection:
        return self._engine.connect().execution_options(only_reads=True)

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()


def with_driver(url: str) -> str:
    """The URL as SQLAlchemy wants it: psycopg is the driver that is installed."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _progress(row: dict[str, Any]) -> Progress:
    row["results"], row["destinations"] = tuple(row["results"]), tuple(row["destinations"])
    return Progress(**row)


def _prepare_sqlite(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None  # or sqlite3 begins transactions of its own
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    cursor.close()
    # The log stays in the file: DBOS's own connections to it are three times as fast with it.
    make_shared(connection)


def _begin_immediately(connection: sa.Connection) -> None:
    """The write lock first: what reads and then writes can't lose against another process."""
    if not connection.get_execution_options().get("only_reads"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
