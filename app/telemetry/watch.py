"""What the service tells an auditor and a monitor, said where its states change."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import closing

from app.intake import journal
from app.intake.ledger import PENDING, Ledger, State, StudyVersion
from app.intake.peek import UnreadableError
from app.intake.spool import Spool
from app.settings import Settings
from app.telemetry import audit
from app.telemetry.metrics import MetricsServer, Numbers
from app.telemetry.trail import open_trail


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
        self._me = audit.Node(settings.ae_title)
        self._audits = bool(settings.audit_file or settings.audit_syslog)
        self._trail = open_trail(settings)
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

    def saw(self, study: StudyVersion, ledger: Ledger) -> None:
        """A study version changed its state.

        Raises
        ------
        AuditFileUnusable
            What happened is not in the file.
        """
        if not self._audits or study.state not in (State.READY, State.RUNNING):
            return
        told = self._audited(study, ledger)
        if study.state is State.RUNNING:
            self._trail.record(audit.instances_accessed(self._me, told))
        elif study.trial == 1:
            for sender in sorted({arrival.calling_aet for arrival in ledger.arrivals(study)}):
                source = audit.Node(sender)
                self._trail.record(audit.instances_transferred(source, self._me, told))

    def delivered(
        self, study: StudyVersion, where: str, ledger: Ledger, *, refused: str = ""
    ) -> None:
        """Results reached a destination, or were refused there for good, and why."""
        if self._audits:
            self._trail.record(
                audit.instances_transferred(
                    self._me,
                    audit.Node(where),
                    self._audited(study, ledger),
                    outcome=audit.Outcome.SERIOUS if refused else audit.Outcome.SUCCESS,
                    description=refused,
                )
            )

    def _audited(self, study: StudyVersion, ledger: Ledger) -> audit.AuditedStudy:
        arrivals = ledger.arrivals(study)
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
                audit_lost=self._trail.syslog_lost,
            )


def _told(connection: sqlite3.Connection, column: str, kind: str) -> dict[str, float]:
    rows = connection.execute(f"SELECT name, {column} FROM counts WHERE kind = ?", (kind,))
    return {str(name): float(value) for name, value in rows}
