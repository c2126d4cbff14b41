"""Telemetry: what happened, for an auditor (`audit`, `trail`) and for a monitor (`metrics`)."""
