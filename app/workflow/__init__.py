"""What happens to a complete study, durably: analyse, deliver, withdraw what it replaces.

`engine` runs the workflows on DBOS Transact, in one database that several processes
may share; `study` says what their steps do; `board` holds the few tables beside
DBOS's own; `analyses` hands requests from the workflows' threads to the worker;
`host` is all of it in one process, for `radloop serve` and `radloop worker`.
"""
