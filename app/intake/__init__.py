"""Intake: acknowledged means kept.

    peer ── C-STORE ──▶ listener ──▶ spool (file, fsync, rename, fsync) ──▶ journal ──▶ 0x0000
                                                                              │
                       dispatcher ◀── ledger (study, version, state) ◀── peek ┘

`listener` is its own process and holds no model code; `ledger` is read and
written by the dispatcher. Both meet in one SQLite file in the spool.
"""
