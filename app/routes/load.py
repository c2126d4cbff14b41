"""Read `routes.yaml`: every problem at once, each with its line.

RoutesRefusal          RL-0650
├── RoutesUnreadable   RL-0651   no such file, or no text
└── RoutesInvalid      RL-0652   wrong; lists all that is
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from app.routes.model import (
    ALL,
    DESTINATIONS,
    NONE,
    Document,
    Range,
    Route,
    Routes,
    Site,
    When,
    Words,
    did_you_mean,
)
from operators.errors import Refusal

MAX_BYTES = 1 << 20
DEPTH = 12
NODES = 20_000
TANGLED = "is nested too deeply, or repeats itself by aliases"
SETTING_OF = {
    "orthanc": "orthanc_url",
    "folder": "deliver_to_folder",
    "cstore": "deliver_to_cstore",
    "stow": "deliver_to_stow",
}
_NOT_TEXT = frozenset({"string_type", "string_sub_type"})
_KINDS = {
    "model_type": "is not a table of `name: value` lines",
    "model_attributes_type": "is not a table of `name: value` lines",
    "tuple_type": "is not a list",
    "too_short": "is an empty list",
    # The only pattern is that of an id.
    "string_pattern_mismatch": "is not 1 to 40 small letters, digits and hyphens",
}
# Which table stands behind a name of the document: for "did you mean".
_TABLES: dict[str, Any] = dict.fromkeys(When.model_fields, Words) | {
    "routes": Route,
    "when": When,
    "slices": Range,
}


class RoutesRefusal(Refusal):
    """The routes can't be used."""

    code = "RL-0650"


class RoutesUnreadable(RoutesRefusal):
    """The file can't be read."""

    code = "RL-0651"

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(
            f"routes file {file} can't be used ({why}). Correct the setting routes, or leave it "
            "out: then every series goes by the cards."
        )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file.

    Attributes
    ----------
    line : int
        From 1.
    what : str
        Where in the document, and what is wrong with it.
    """

    line: int
    what: str


class RoutesInvalid(RoutesRefusal):
    """The file breaks a rule; nothing in it is in force."""

    code = "RL-0652"

    def __init__(self, file: Path, problems: list[Problem]) -> None:
        self.file, self.problems = file, sorted(problems, key=lambda problem: problem.line)
        lines = "; ".join(f"{file}:{problem.line}: {problem.what}" for problem in self.problems)
        super().__init__(f"{lines}. Mend the file; `radloop routes check` tries it.")


def by_cards() -> Routes:
    """The built-in route: every series to every bundle whose card accepts it."""
    return Routes((Route(id="everything", bundles=(ALL,)),), None, (0,))


def load_routes(file: Path | None, site: Site) -> Routes:
    """Read and check routes.

    Parameters
    ----------
    file : Path or None
        None: `by_cards`.
    site : Site
        Which bundles and destinations there are.

    Raises
    ------
    RoutesUnreadable
        No file, no text, or too large.
    RoutesInvalid
        Not YAML, or anything in it is wrong or unknown.
    """
    if file is None:
        return by_cards()
    node = _compose(file, _text(file))
    problems = list(_doubtful(node))
    if any(problem.what is TANGLED for problem in problems):
        raise RoutesInvalid(file, problems)
    content = _plain(node)
    problems += [p for p in _wrong(node, content) if p.line not in {q.line for q in problems}]
    routes = dict(_sound(content))
    problems += _unusable(node, routes, site)
    if problems:
        raise RoutesInvalid(file, problems)
    lines = tuple(_line(node, ("routes", number)) for number in routes)
    return Routes(tuple(routes.values()), file, lines)


def _wrong(root: yaml.Node, content: Any) -> Iterator[Problem]:
    """What breaks the tables of `model`."""
    try:
        Document.model_validate(content)
    except ValidationError as error:
        places = [problem["loc"] for problem in error.errors()]
        for problem in error.errors():
            here = problem["loc"]
            # A list whose only item is wrong is reported as empty, too.
            inside = any(place[: len(here)] == here and place != here for place in places)
            if problem["type"] != "too_short" or not inside:
                yield Problem(_line(root, here), _sentence(problem))


def _sound(content: Any) -> Iterator[tuple[int, Route]]:
    """Routes that are right by themselves, with their places in the list."""
    routes = content.get("routes") if isinstance(content, dict) else None
    for number, entry in enumerate(routes if isinstance(routes, list) else []):
        with contextlib.suppress(ValidationError):
            yield number, Route.model_validate(entry)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RoutesUnreadable(file, f"more than {MAX_BYTES} bytes")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RoutesUnreadable(file, f"byte {error.start} is no UTF-8") from error
    except OSError as error:
        raise RoutesUnreadable(file, error.strerror or type(error).__name__) from error


def _compose(file: Path, text: str) -> yaml.Node:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise RoutesInvalid(file, [Problem(1, TANGLED)]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or getattr(error, "reason", "") or "can't be parsed"
        problem = Problem(mark.line + 1 if mark else 1, f"is not YAML ({why})")
        raise RoutesInvalid(file, [problem]) from error
    if node is None:
        raise RoutesInvalid(file, [Problem(1, "is empty")])
    return node


def _plain(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _doubtful(root: yaml.Node) -> Iterator[Problem]:
    """What YAML takes in silence: a name that stands twice, a name without a value."""
    waiting, steps = [(root, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        steps += 1
        # An alias may stand for its own parent, or ten for a hundred and those for a thousand.
        if depth > DEPTH or steps > NODES:
            yield Problem(_at(node), TANGLED)
            return
        if isinstance(node, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                    yield Problem(_at(key), "a name is a plain word")
                    continue
                if key.value in seen:
                    yield Problem(_at(key), f"{key.value} stands in line {seen[key.value]} already")
                seen[key.value] = _at(key)
                waiting.append((value, depth + 1))
        elif isinstance(node, yaml.ScalarNode):
            if node.tag.endswith(":null"):
                yield Problem(_at(node), "a value is missing (leave the line out, or give one)")
            elif node.tag.rpartition(":")[2] not in ("str", "int", "float", "bool"):
                yield Problem(_at(node), f"{node.value!r} is no word or number; put it in quotes")


def _at(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _line(root: yaml.Node, where: tuple[int | str, ...]) -> int:
    """Line of the deepest node on the way; parts that a short form left out are passed over."""
    node, line = root, _at(root)
    for part in where:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(part)), None)
            if pair is not None:
                line, node = _at(pair[0]), pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = _at(node)
    return line


def _sentence(problem: Any) -> str:
    where = [f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]]
    place = "".join(where).lstrip(".") or "the file"
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        parent, _, name = place.rpartition(".")
        return f"{parent or 'the file'}: there is no {name}{_near(problem['loc'])}"
    if kind == "missing":
        return f"{place} is missing"
    if kind in _NOT_TEXT:
        return f"{place} is {given!r} to YAML, not text: put it in quotes"
    if kind == "enum":
        return f"{place} is none of {problem['ctx']['expected'].replace(' or ', ', ')}"
    if kind in _KINDS:
        return f"{place} {_KINDS[kind]}"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


def _near(where: tuple[int | str, ...]) -> str:
    """A known name at that place that is spelt alike."""
    model: Any = Document
    for part in where[:-1]:
        if isinstance(part, str):
            model = _TABLES.get(part, model)
    return did_you_mean(str(where[-1]), tuple(getattr(model, "model_fields", ())))


def _unusable(root: yaml.Node, routes: Mapping[int, Route], site: Site) -> Iterator[Problem]:
    """What only this site can tell, and routes that can't both be meant."""
    taker: tuple[str, int] | None = None
    first: dict[str, int] = {}
    for number, route in routes.items():
        here = ("routes", number)
        line = _line(root, here)
        name = f"route {route.id}"
        if route.id in first:
            yield Problem(line, f"{name} has the id of the route in line {first[route.id]}")
        first.setdefault(route.id, line)
        if taker is not None:
            told = f"route {taker[0]} in line {taker[1]} takes every series before it"
            yield Problem(line, f"{name} can never apply: {told}")
        if route.bundles in ((ALL,), (NONE,)):
            if taker is None and not route.when.asked():
                taker = (route.id, line)
        else:
            for at, bundle in enumerate(route.bundles):
                if (said := _no_bundle(bundle, site)) is not None:
                    yield Problem(_line(root, (*here, "bundles", at)), f"{name}: {said}")
        for at, key in enumerate(route.deliver or ()):
            if (said := _no_destination(key, site)) is not None:
                yield Problem(_line(root, (*here, "deliver", at)), f"{name}: {said}")


def _no_bundle(bundle: str, site: Site) -> str | None:
    if bundle in site.bundles:
        return None
    if bundle in site.prompted:
        return f"bundle {bundle} waits for a person's box (`radloop segment`) and can't be routed"
    installed = ", ".join(site.bundles) or "none"
    near = did_you_mean(bundle, site.bundles)
    return f"bundle {bundle} is not installed{near}: there are {installed}"


def _no_destination(key: str, site: Site) -> str | None:
    if key in site.destinations:
        return None
    if key in DESTINATIONS:
        return f"destination {key} is not configured: set {SETTING_OF[key]}"
    there_are = ", ".join(site.destinations) or "none"
    near = did_you_mean(key, (*DESTINATIONS, *site.destinations))
    return f"there is no destination {key}{near}: configured are {there_are}"
