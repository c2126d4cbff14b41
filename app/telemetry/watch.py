"""What the service tells an auditor and a monitor, said where its states change."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from app.intake import journal, turned_away
from app.intake.feed import SOURCE as FEED
from app.intake.ledger import PENDING, Arrival, Ledger, State, StudyVersion
from app.intake.peek import UnreadableError
from app.intake.spool import Spool
from app.settings import Settings
from app.telemetry import audit
from app.telemetry.metrics import MetricsServer, Numbers
from app.telemetry.trail import open_trail
from app.workflow.told import NOTHING_FOR_IT

LOOK_SECONDS = 1.0
REFUSED_SECONDS = 60.0  # so often are refused peers told: with `MAX_ROWS`, at most 45 MB a day
REFUSED_PEER = "refused peer"  # kind of a count
WHY_REFUSED = {
    "address": "its address is not among the allowed ones",
    "aet": "its AE title is not among the allowed ones",
    "tls": "the TLS handshake failed",
    "associations": "too many associations",
    "connections": "too many connections",
    "others": "more peers than are told one by one; the listener's log names them",
}


class Watch:
    """Audit trail and metrics of one service; what is not set is not kept.

    Parameters
    ----------
    settings : Settings
        `audit_file`, `audit_syslog`, `metrics_port`.
    spool : Spool
        Whose studies are told about.

    Raises
    ------
    TelemetryRefusal
        The audit file can't be written, or the port is taken.
    """

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self._spool = spool
        self._me = audit.Node(settings.ae_title, aet=settings.ae_title)
        self._orthanc = audit.Node(f"Orthanc {settings.orthanc_url}")
        self._audits = bool(settings.audit_file or settings.audit_syslog)
        self._trail = open_trail(settings)
        self._look_at = 0.0
        self._trouble: str | None = None
        self._metrics = None
        if settings.metrics_port is not None:
            self._metrics = MetricsServer(
                settings.metrics_host, settings.metrics_port, self._numbers, spool.root
            )

    @property
    def address(self) -> str | None:
        """Where metrics are, as a URL."""
        if self._metrics is None:
            return None
        host, port = self._metrics.address
        return f"http://{host}:{port}/metrics"

    def started(self) -> None:
        """The service begins."""
        self._trail.record(audit.application_activity(self._me, started=True))

    def stopped(self) -> None:
        """The service ends; nothing can be told after it."""
        self._trail.record(audit.application_activity(self._me, started=False))
        self._trail.close()
        if self._metrics is not None:
            self._metrics.close()

    def tend(self, ledger: Ledger) -> list[str]:
        """Repeat what the audit file did not take, tell refused peers; lines for a person.

        Call it often.

        Raises
        ------
        AuditFileUnusable
            As `saw`.
        sqlite3.Error
            The journal, or the listeners' notes, can't be used.
        """
        before, self._trouble = self._trouble, self._trail.tend()
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            turned_away.take(self._spool.root, lambda peers: self._tell_refused(peers, ledger))
        if self._trouble and not before:
            return [f"{self._trouble} Audit messages wait in the spool until it can."]
        if before and not self._trouble:
            return ["audit file: all messages that waited are written"]
        return []

    def _tell_refused(self, peers: Sequence[turned_away.TurnedAway], ledger: Ledger) -> None:
        self._look_at = time.monotonic() + REFUSED_SECONDS
        for peer in peers:
            times = f" ({peer.count} times)" if peer.count > 1 else ""
            if self._audits:
                node = audit.Node(peer.aet or peer.address, peer.address, peer.aet)
                why = f"refused: {WHY_REFUSED.get(peer.why, peer.why)}{times}"
                self._trail.record(audit.peer_refused(self._me, node, why))
            ledger.connection.execute(
                "INSERT INTO counts VALUES (?, ?, ?, 0) ON CONFLICT (kind, name)"
                " DO UPDATE SET count = count + excluded.count",
                (REFUSED_PEER, peer.why, peer.count),
            )

    def saw(self, study: StudyVersion, ledger: Ledger) -> None:
        """A study version changed its state.

        Raises
        ------
        AuditFileUnusable
            What happened is not in the file.
        """
        if not self._audits or study.state not in (State.READY, State.RUNNING):
            return
        arrivals = ledger.arrivals(study)
        if study.state is State.RUNNING:
            told = self._audited(study, arrivals)
            self._trail.record(audit.instances_accessed(self._me, told))
        elif study.trial == 1:
            before = set(ledger.arrivals(replace(study, version=study.version - 1)))
            by_sender: dict[tuple[bool, str], list[Arrival]] = {}
            for arrival in arrivals:
                if arrival not in before:
                    key = arrival.source == FEED, arrival.calling_aet
                    by_sender.setdefault(key, []).append(arrival)
            for (fetched, sender), theirs in sorted(by_sender.items()):
                told = self._audited(study, theirs)
                source = self._orthanc if fetched else audit.Node(sender, aet=sender)
                self._trail.record(
                    audit.instances_transferred(
                        source, self._me, told, received=True, fetched=fetched
                    )
                )

    def delivered(
        self, study: StudyVersion, where: str, ledger: Ledger, *, refused: str = ""
    ) -> None:
        """Results reached a destination, or were refused there for good, and why."""
        if self._audits and NOTHING_FOR_IT not in where:
            self._trail.record(
                audit.instances_transferred(
                    self._me,
                    audit.Node(where.partition(" (RL-")[0]),  # without a remark
                    replace(self._audited(study, ledger.arrivals(study)), instances={}),
                    received=False,
                    outcome=audit.Outcome.SERIOUS if refused else audit.Outcome.SUCCESS,
                    description=refused,
                )
            )

    def _audited(self, study: StudyVersion, arrivals: Sequence[Arrival]) -> audit.AuditedStudy:
        patient = ""
        for arrival in arrivals[:1]:
            try:
                patient = audit.patient_id_of(self._spool.path(arrival.name))
            except (UnreadableError, OSError):
                patient = ""  # the message says that it is not known
        classes = Counter(arrival.sop_class_uid for arrival in arrivals)
        return audit.AuditedStudy(study.study_uid, patient, dict(classes))

    def _numbers(self) -> Numbers:
        """Read anew at every scrape, in the metrics server's thread."""
        with closing(journal.connect(self._spool.journal_file)) as connection:
            count, size = connection.execute(
                "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM instances"
            ).fetchone()
            states = connection.execute("SELECT state, COUNT(*) FROM studies GROUP BY state")
            studies = {str(state): int(number) for state, number in states}
            marks = ", ".join("?" * len(PENDING))
            (oldest,) = connection.execute(
                f"SELECT MIN(created_at) FROM studies WHERE state IN ({marks})", PENDING
            ).fetchone()
            return Numbers(
                received_instances=count,
                received_bytes=size,
                studies=studies,
                oldest_waiting_s=max(time.time() - oldest, 0.0) if oldest else 0.0,
                step_seconds=_told(connection, "seconds", "step"),
                step_count={k: int(v) for k, v in _told(connection, "count", "step").items()},
                failures={k: int(v) for k, v in _told(connection, "count", "failure").items()},
                refused_peers={
                    k: int(v) for k, v in _told(connection, "count", REFUSED_PEER).items()
                },
                audit_lost=self._trail.syslog_lost,
                audit_waiting=self._trail.waiting,
            )


def _told(connection: sqlite3.Connection, column: str, kind: str) -> dict[str, float]:
    rows = connection.execute(f"SELECT name, {column} FROM counts WHERE kind = ?", (kind,))
    return {str(name): float(value) for name, value in rows}
