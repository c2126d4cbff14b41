"""The guideline rules of a site: what radloop ships, what the site adds, what it has accepted."""

from __future__ import annotations

from app.settings import Settings
from operators.findings.guideline import Acceptance, Rulebook, load_rulebook


def site_rulebook(settings: Settings) -> Rulebook:
    """All rules, with the names of those who accepted them.

    Raises
    ------
    RulesRefusal
        A file is wrong or missing, or a rule is accepted that doesn't exist.
    """
    accepted = {
        rule: Acceptance(settings.readers[acceptance.by].name, acceptance.digest)
        for rule, acceptance in settings.accepted_rules.items()
    }
    return load_rulebook([settings.guidelines] if settings.guidelines else [], accepted)
