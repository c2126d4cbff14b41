"""Guideline files: what a rule says, where it is printed, and which structures it is about.

One file a publication, `guidelines/*.yaml`. A file that lacks a citation, a page or a table,
or has a name that is not in `guideline.schema.json`, is refused with its line. Nothing here
measures or decides: that is `rules.py`.

The rules are comparisons of a number with a limit, joined by "and". That is less than any
rule library offers, and all of it can be read aloud beside the page of the publication; no
string of a file is ever evaluated or formatted.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import jsonschema
import yaml

from operators.errors import Refusal

if TYPE_CHECKING:
    # Commands read rules before they block signals; numpy's threads must come after that.
    from operators.job import Severity

SHIPPED = Path(__file__).with_name("guidelines")
SCHEMA_FILE = Path(__file__).with_name("guideline.schema.json")
DIGEST_CHARACTERS = 12

Relation = Literal["above", "at_least", "below", "at_most"]


class RulesRefusal(Refusal):
    """Guideline rules can't be used."""

    code = "RL-2060"


class GuidelineInvalid(RulesRefusal):
    """A guideline file breaks the schema."""

    code = "RL-2061"

    def __init__(self, file: Path, line: int, what: str) -> None:
        super().__init__(
            f"guideline {file.name}, line {line}: {what}. Correct it "
            f"(schema: operators/findings/{SCHEMA_FILE.name}); until then no rule is applied."
        )


class GuidelinesMissing(RulesRefusal):
    """A folder of guidelines that a setting names is not there."""

    code = "RL-2062"

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is no folder of guidelines: correct the setting guidelines.")


class RuleUnknown(RulesRefusal):
    """There is no rule of that id."""

    code = "RL-2063"

    def __init__(self, rule: str) -> None:
        super().__init__(f"there is no rule '{rule}'. `radloop rules list` shows all of them.")


@dataclass(frozen=True)
class Condition:
    """One comparison.

    Attributes
    ----------
    measurement : str
        Name of a `Measurement`.
    unit : str
        UCUM code that it must have; with another one nothing is compared.
    relation : Relation
        How its value must stand to `limit`.
    limit : float
        In `unit`.
    """

    measurement: str
    unit: str
    relation: Relation
    limit: float

    def holds(self, value: float) -> bool:
        """Whether `value`, in `unit`, stands to the limit as the condition says."""
        return {
            "above": value > self.limit,
            "at_least": value >= self.limit,
            "below": value < self.limit,
            "at_most": value <= self.limit,
        }[self.relation]


@dataclass(frozen=True)
class Structure:
    """What a rule is about: a Segmented Property Type and its side.

    Attributes
    ----------
    value, scheme, meaning : str
        The code; the meaning is for readers and never compared.
    laterality : str
        ``"none"``: has no side; ``"any"``; else the code value of the side.
    """

    value: str
    scheme: str
    meaning: str
    laterality: str


@dataclass(frozen=True)
class Rule:
    """One rule, with all that its file says about it.

    Attributes
    ----------
    id : str
        ``"<file>/<rule>"``.
    title : str
        Of the file.
    citation : str
        Publication with edition, page and table.
    verified_by : str
        Who compared the transcription with the publication; "" while nobody has.
    modalities : tuple of str
        Modality (0008,0060) of images that it holds for.
    structures : tuple of Structure
        Any of these.
    unenhanced : bool
        Only where no header names a contrast agent.
    whole : bool
        Only where the structure touches no side of the volume: else a part may be missing.
    conditions : tuple of Condition
        All of these.
    severity : Severity
        What an accepted rule gives.
    severity_from : str
        Who graded: ``"publication"``, ``"radloop"`` or ``"nobody"``.
    statement : str
        What follows.
    differentials, recommendations : tuple of str
        As printed, in short.
    digest : str
        Of all that decides; a site accepts a rule with its digest, so that a changed rule
        has to be accepted again.
    """

    id: str
    title: str
    citation: str
    verified_by: str
    modalities: tuple[str, ...]
    structures: tuple[Structure, ...]
    unenhanced: bool
    whole: bool
    conditions: tuple[Condition, ...]
    severity: Severity
    severity_from: str
    statement: str
    differentials: tuple[str, ...]
    recommendations: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Acceptance:
    """That a person at the site takes a rule as it stood."""

    by: str
    digest: str


@dataclass(frozen=True)
class Rulebook:
    """All rules of a site, and which of them somebody has accepted.

    Attributes
    ----------
    rules : tuple of Rule
        In the order of files and of rules in them.
    accepted : mapping of str to Acceptance
        By rule id; the rest is only proposed.
    """

    rules: tuple[Rule, ...]
    accepted: Mapping[str, Acceptance] = field(default_factory=dict)

    def accepted_by(self, rule: Rule) -> str:
        """Who accepted the rule as it is now; "" where nobody has."""
        acceptance = self.accepted.get(rule.id)
        return acceptance.by if acceptance and acceptance.digest == rule.digest else ""

    def rule(self, rule_id: str) -> Rule:
        """The rule of that id.

        Raises
        ------
        RuleUnknown
            There is none.
        """
        found = next((rule for rule in self.rules if rule.id == rule_id), None)
        if found is None:
            raise RuleUnknown(rule_id)
        return found


def load_rulebook(
    folders: Iterable[Path] = (), accepted: Mapping[str, Acceptance] | None = None
) -> Rulebook:
    """The shipped guidelines and those of further folders.

    Parameters
    ----------
    folders : iterable of Path
        A site's own; a file of the same name stands for the shipped one.
    accepted : mapping of str to Acceptance
        By rule id.

    Raises
    ------
    GuidelinesMissing, GuidelineInvalid
        A folder is not there; a file is wrong.
    RuleUnknown
        A rule is accepted that doesn't exist.
    """
    files: dict[str, Path] = {}
    for folder in (SHIPPED, *folders):
        if not folder.is_dir():
            raise GuidelinesMissing(folder)
        files |= {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    rules = tuple(rule for _, file in sorted(files.items()) for rule in read_guideline(file))
    book = Rulebook(rules, dict(accepted or {}))
    for rule_id in book.accepted:
        book.rule(rule_id)
    return book


def read_guideline(file: Path) -> tuple[Rule, ...]:
    """The rules of one file.

    Raises
    ------
    GuidelineInvalid
        Not YAML, a name stands twice, or it breaks the schema; names the line.
    """
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise GuidelineInvalid(file, line, "is not YAML") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise GuidelineInvalid(file, 1, f"can't be read ({type(error).__name__})") from error
    # The last of two equal names would win in silence, and it may be a threshold.
    for line, name in _repeated(node):
        raise GuidelineInvalid(file, line, f"'{name}' stands twice")
    problem = next(iter(jsonschema.Draft202012Validator(_schema()).iter_errors(content)), None)
    if problem is not None:
        line = _line(node, list(problem.absolute_path))
        raise GuidelineInvalid(file, line, f"{problem.json_path}: {problem.message}")
    ids = [entry["id"] for entry in content["rules"]]
    for number, rule_id in enumerate(ids):
        if rule_id in ids[:number]:
            line = _line(node, ["rules", number, "id"])
            raise GuidelineInvalid(file, line, f"rule '{rule_id}' stands twice")
    return tuple(_rule(file.stem, content, entry) for entry in content["rules"])


@functools.cache
def _schema() -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def _rule(stem: str, content: Mapping[str, Any], entry: Mapping[str, Any]) -> Rule:
    applies, cited = content["applies"], content["citation"]
    doi = f", doi:{cited['doi']}" if "doi" in cited else ""
    decides = json.dumps([cited, applies, entry], sort_keys=True)
    return Rule(
        id=f"{stem}/{entry['id']}",
        title=content["title"],
        citation=(
            f"{cited['authors'].rstrip('.')}. {cited['title']}. {cited['publication']} "
            f"{cited['edition']}:{cited['pages']}{doi}; "
            f"page {entry['page']}, {entry['table']}"
        ),
        verified_by=content["verified_by"].strip(),
        modalities=tuple(applies["modality"]),
        structures=tuple(Structure(**structure) for structure in applies["structures"]),
        unenhanced="contrast" in applies,
        whole="whole" in applies,
        conditions=tuple(_condition(condition) for condition in entry["when"]),
        severity=entry["severity"],
        severity_from=entry["severity_from"],
        statement=entry["statement"].strip(),
        differentials=tuple(entry.get("differentials", ())),
        recommendations=tuple(entry.get("recommendations", ())),
        digest=hashlib.sha256(decides.encode()).hexdigest()[:DIGEST_CHARACTERS],
    )


def _condition(entry: Mapping[str, Any]) -> Condition:
    # The schema lets exactly one of them stand there.
    (relation,) = (name for name in get_args(Relation) if name in entry)
    return Condition(entry["measurement"], entry["unit"], relation, float(entry[relation]))


def _repeated(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Line and name of everything that stands twice in one table."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, key.value
            seen.add(key.value)
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value)


def _line(node: yaml.Node | None, path: list[str | int]) -> int:
    """Line of what lies at a path, or of the deepest part of the path that there is."""
    line = 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == step), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line
