"""Learning from verdicts: confirmed results in, judged weights out.

`collect` makes a data set of what a reader confirmed, `run` fine-tunes by the bundle's
own train config, `gate` compares with the champion on patients that nothing trained
on, `promote` lets the better one serve. Everything is keyed by hashes and lies in the
state folder (`state`); the model registry is MLflow (`registry`). Nothing here knows
the application: who confirmed what comes in as plain records.
"""
