"""Refusals: why radloop will not go on, in words that a person can act on.

Refusal                    RL-0000   anything below
├── FileRefusal            RL-01xx   one file of a drop; the rest goes on
├── StudyRefusal           RL-02xx   a whole study
├── VolumeRefusal          RL-03xx   one series; the others go on
├── ModelRefusal           RL-04xx   a bundle, its card or its weights
└── EvidenceRefusal        RL-05xx   an object that would be wrong if written

A code is never reused. The class that is raised writes the sentence: the thing,
the value, the limit and the next step. Sentences hold UIDs and numbers, never
names, birth dates or patient identifiers.
"""

from __future__ import annotations


class Refusal(Exception):
    """The step stops, on purpose and for the reason in the message."""

    code = "RL-0000"

    @property
    def reason(self) -> str:
        """Sentence with its code in front, for tables and JSON."""
        return f"{self.code}: {self}"


class FileRefusal(Refusal):
    """One file can't be used."""

    code = "RL-0100"


class StudyRefusal(Refusal):
    """The study as a whole can't be used."""

    code = "RL-0200"


class VolumeRefusal(Refusal):
    """A series can't be made into volumes."""

    code = "RL-0300"


class ModelRefusal(Refusal):
    """A bundle can't be run."""

    code = "RL-0400"


class EvidenceRefusal(Refusal):
    """A result can't be written without being wrong."""

    code = "RL-0500"
