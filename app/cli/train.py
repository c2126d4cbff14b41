"""`radloop train`: from what readers confirmed to weights that serve."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.exit_codes import Exit
from operators.errors import Refusal

if TYPE_CHECKING:
    from app.settings import Settings
    from operators.models.card import Card
    from training.collect import ConfirmedResult
    from training.registry import Registry, Version
    from training.state import StateDir

train = typer.Typer(
    no_args_is_help=True,
    help="Learn from confirmed results: collect, run, gate, promote; rollback undoes it. "
    "Nothing serves that the gate did not let through.",
)
CODES = """\
Exit codes: 0 done (gate: there is a decision, whatever it is); 1 refused, reason on stderr;
2 wrong usage; 4 (collect) some confirmed results were left out; 130 interrupted."""

BundleOption = Annotated[
    str | None,
    typer.Option(help="Which bundle; needed where several can be trained.", show_default=False),
]
VersionOption = Annotated[
    int | None,
    typer.Option(help="Challenger; the newest one if not given.", show_default=False, min=1),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class LearningUnset(Refusal):
    """A setting is missing, or the command does not say enough."""

    code = "RL-1306"


@train.command()
def collect(
    bundle: BundleOption = None,
    max_cases: Annotated[
        int | None,
        typer.Option(help="Learn from only so many, the newest; the hold-out stays whole.", min=1),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a data set of every confirmed result: source series and SEG from Orthanc.

    The hold-out is drawn per patient, once. A second run with nothing new changes nothing.

    Example: radloop train collect --bundle head_neck_oar_ct
    """
    from app.cli.progress import counted
    from training.archive import Archive
    from training.collect import collect as collect_results

    settings, card, state = _begin(bundle)
    if settings.orthanc_url is None:
        raise LearningUnset("orthanc_url is not set: sources and SEGs are fetched from there")
    secret = settings.orthanc_password
    password = secret.get_secret_value() if secret else None
    with (
        Archive(settings.orthanc_url, settings.orthanc_user, password) as archive,
        counted("collecting", quiet=as_json) as progress,
    ):
        collected = collect_results(
            confirmed_results(settings.state_dir),
            archive=archive,
            card=card,
            state=state,
            holdout_fraction=settings.holdout_fraction,
            max_cases=max_cases,
            rejected=rejected_images(settings.spool),
            progress=progress,
        )
    manifest = collected.manifest
    counts = {name: len(manifest.of(name)) for name in ("train", "validation", "holdout")}
    answer = {
        "bundle": card.name,
        "manifest": manifest.sha256,
        "folder": str(manifest.folder),
        "is_new": collected.is_new,
        "cases": len(manifest.cases),
        **counts,
        "holdout_patients": manifest.patients("holdout"),
        "left_out": [{"what": e.what, "reason": e.reason} for e in collected.left_out],
    }
    lines = [
        f"data set {manifest.sha256[:12]}… in {manifest.folder}"
        + ("" if collected.is_new else " (nothing new)"),
        f"{len(manifest.cases)} cases: {counts['train']} to train, "
        f"{counts['validation']} to validate, {counts['holdout']} held out "
        f"({manifest.patients('holdout')} patients)",
        *(f"left out: result {e.what}: {e.reason}" for e in collected.left_out),
    ]
    _answer(answer, lines, as_json)
    raise typer.Exit(Exit.REFUSED if collected.left_out else Exit.OK)


@train.command()
def run(
    bundle: BundleOption = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="sha256 of a manifest; the latest if not given.", show_default=False),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training cases.")] = 8,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="A tenth of the train config's if not given.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune the champion on a data set, at low priority, and register the weights.

    Killed, the same command goes on from the last checkpoint.

    Example: radloop train run --epochs 8
    """
    from app.cli.progress import told
    from training.dataset import latest_manifest, read_manifest
    from training.run import fine_tune

    if learning_rate is not None and learning_rate <= 0:
        raise typer.BadParameter("a learning rate is above 0", param_hint="--learning-rate")
    _, card, state = _begin(bundle)
    manifest = read_manifest(state, dataset) if dataset else latest_manifest(state, card.name)
    if manifest.bundle != card.name:
        raise LearningUnset(f"data set {manifest.sha256[:12]}… is of bundle '{manifest.bundle}'")
    registry = _registry(state)
    with told("training", quiet=as_json) as progress:
        trained = fine_tune(
            card,
            manifest,
            registry,
            epochs=epochs,
            learning_rate=learning_rate,
            progress=progress,
        )
    version, result = trained.version, trained.result
    answer = {
        "bundle": card.name,
        "version": version.number,
        "weights_sha256": version.sha256,
        "weights": str(registry.weights(version).file),
        "parent": version.parent,
        "dataset": version.dataset,
        "run": trained.run,
        "is_new": trained.is_new,
        "train_cases": len(manifest.of("train")),
        "validation_cases": len(manifest.of("validation")),
        **result,
    }
    metric = (
        f"{result['metric_name']} {result['metric']:.4f} at epoch {result['best_epoch']}"
        if result["metric"] is not None
        else "validation not measurable: no validation case has a labelled structure"
    )
    lines = [
        f"version {version.number}: weights {version.sha256[:12]}…"
        + ("" if trained.is_new else " (this run was done before)"),
        f"{result['epochs']} epochs over {answer['train_cases']} cases, learning rate "
        f"{result['learning_rate']:g}, batch {result['batch_size']}; {metric}",
        f"next: radloop train gate --bundle {card.name} --version {version.number}",
    ]
    _answer(answer, lines, as_json)


@train.command()
def gate(
    bundle: BundleOption = None, version: VersionOption = None, as_json: JsonOption = False
) -> None:
    """Compare a challenger with the champion on the hold-out patients; decide and report.

    Example: radloop train gate --version 2
    """
    from app.cli.progress import counted
    from training.dataset import latest_manifest
    from training.gate import GATE_JSON, GATE_MARKDOWN
    from training.gate import gate as pass_gate
    from training.promote import champion_of, repair

    _, card, state = _begin(bundle)
    manifest = latest_manifest(state, card.name)
    registry = _registry(state)
    repair(card, registry)
    champion = champion_of(card, registry)
    challenger = _challenger(card, registry, champion, version)
    with counted("comparing", quiet=as_json) as progress:
        gated = pass_gate(
            card,
            manifest,
            registry,
            champion=champion,
            challenger=challenger,
            progress=progress,
        )
    answer = {
        **gated.content,
        "report": str(gated.folder / GATE_MARKDOWN),
        "file": str(gated.folder / GATE_JSON),
    }
    lines = [
        f"{gated.decision}: version {challenger.number} against {champion.number}",
        *gated.reasons,
        f"report: {gated.folder / GATE_MARKDOWN}",
    ]
    _answer(answer, lines, as_json)


@train.command()
def promote(
    bundle: BundleOption = None,
    version: VersionOption = None,
    override: Annotated[
        str | None,
        typer.Option(help="Why, where the gate is undecided; recorded.", show_default=False),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option("--as", help="Who overrides: a key of `readers`.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a challenger serve, if the gate says so; workers take it before their next study.

    Example: radloop train promote --version 2
    """
    from training.promote import Override, champion_of
    from training.promote import promote as let_serve

    settings, card, state = _begin(bundle)
    taken = None
    if override is not None or reader is not None:
        if not override or not override.strip() or reader is None:
            raise typer.BadParameter("--override REASON and --as READER go together")
        if reader not in settings.readers:
            known = ", ".join(sorted(settings.readers)) or "none"
            raise LearningUnset(f"'{reader}' is no reader; the settings know: {known}")
        taken = Override(override.strip(), reader)
    registry = _registry(state)
    challenger = _challenger(card, registry, champion_of(card, registry), version)
    change = let_serve(card, registry, challenger, taken)
    _answer_change(card, change, as_json)


@train.command()
def rollback(bundle: BundleOption = None, as_json: JsonOption = False) -> None:
    """Let that serve again which served before the last promotion.

    Example: radloop train rollback
    """
    from training.promote import rollback as go_back

    _, card, state = _begin(bundle)
    _answer_change(card, go_back(card, _registry(state)), as_json)


@train.command()
def status(bundle: BundleOption = None, as_json: JsonOption = False) -> None:
    """Champion, versions, hold-out, last gate; mends what a crash left behind.

    Example: radloop train status
    """
    from training.dataset import latest_manifest
    from training.holdout import count_held_out
    from training.promote import champion_of, repair
    from training.refusals import NothingCollected
    from training.taken_back import learned_from

    settings, card, state = _begin(bundle)
    registry = _registry(state)
    champion = champion_of(card, registry)
    repaired = repair(card, registry)
    try:
        manifest = latest_manifest(state, card.name)
        holdout = {"patients": manifest.patients("holdout"), "manifest": manifest.sha256}
    except NothingCollected:
        holdout = {"patients": 0, "manifest": None}
    known = registry.versions(card.name)
    studies = {study for study, _ in rejected_images(settings.spool)}
    learned = learned_from(known, state, studies)
    versions = [
        {**_row(version, champion), "taken_back_cases": learned[version.number]}
        for version in known
    ]
    answer = {
        "bundle": card.name,
        "champion": {"version": champion.number, "sha256": champion.sha256},
        "versions": versions,
        "holdout": {**holdout, "patients_of_all_bundles": count_held_out(state)},
        "last_gate": next((row["gate"] for row in reversed(versions) if row["gate"]), None),
        "repaired": list(repaired),
    }
    lines = [
        *(f"repaired: {what}" for what in repaired),
        *(
            f"{'champion ' if row['is_champion'] else '         '}version {row['version']}  "
            f"{row['sha256'][:12]}…  {row['origin']}  "
            + (f"gate: {row['gate']['decision']}" if row["gate"] else "not gated")
            + _taken_back(row["taken_back_cases"])
            for row in versions
        ),
        f"hold-out of the latest data set: {holdout['patients']} patients",
    ]
    _answer(answer, lines, as_json)


def rejected_images(spool: Path) -> frozenset[tuple[str, str]]:
    """What the sources of images took back, as far as this machine's listener was told."""
    from app.intake.rejections import all_rejected
    from app.workflow.triage import opened

    if not (spool / "journal.db").is_file():
        return frozenset()  # images come in elsewhere
    with opened(spool) as ledger:
        return all_rejected(ledger.connection)


def confirmed_results(state_dir: Path) -> list[ConfirmedResult]:
    """Results whose latest verdict is "confirmed".

    Raises
    ------
    RecordBroken
        The record of verdicts was changed.
    """
    from app.verdicts.record import latest_verdicts, read_verdicts
    from training.collect import ConfirmedResult

    return [
        ConfirmedResult(
            study_instance_uid=verdict.study_instance_uid,
            series_instance_uid=verdict.series_instance_uid,
            part=verdict.part,
            bundle=verdict.bundle,
            weights_sha256=verdict.weights_sha256,
            sr_sop_instance_uid=verdict.sr.sop_instance_uid,
            sr_sha256=verdict.sr.sha256,
            seg_sop_instance_uid=verdict.seg.sop_instance_uid if verdict.seg else None,
            seg_sha256=verdict.seg.sha256 if verdict.seg else None,
            confirmed_at=verdict.at,
        )
        for verdict in latest_verdicts(read_verdicts(state_dir)).values()
        if verdict.verdict == "confirmed"
    ]


def _begin(bundle: str | None) -> tuple[Settings, Card, StateDir]:
    """Settings, the bundle that is meant, and where its state lies."""
    from app.bundle_folders import bundle_folders
    from app.settings import load_settings
    from operators.models.card import BundleUnknown, load_cards
    from training.run import train_config
    from training.state import StateDir

    settings = load_settings()
    cards = load_cards(bundle_folders())
    if bundle is None:
        trainable = [card for card in cards.values() if train_config(card)]
        if len(trainable) != 1:
            names = ", ".join(sorted(card.name for card in trainable)) or "none"
            raise LearningUnset(f"which bundle? With a train config: {names}. Give --bundle NAME")
        card = trainable[0]
    elif bundle not in cards:
        raise BundleUnknown(bundle, sorted(cards))
    else:
        card = cards[bundle]
    return settings, card, StateDir(settings.state_dir)


def _registry(state: StateDir) -> Registry:
    from training.registry import Registry

    return Registry(state)


def _challenger(card: Card, registry: Registry, champion: Version, number: int | None) -> Version:
    from training.gate import choose_challenger

    if number is not None:
        return registry.version(card.name, number)
    return choose_challenger(registry.versions(card.name), champion, card.name)


def _row(version: Version, champion: Version) -> dict[str, Any]:
    folder, digest, decision = version.gate.split(" ", 2) if version.gate else (None, None, None)
    return {
        "version": version.number,
        "sha256": version.sha256,
        "origin": version.origin,
        "parent": version.parent,
        "dataset": version.dataset,
        "is_champion": version.number == champion.number,
        "gate": {"decision": decision, "report": folder, "sha256": digest} if folder else None,
    }


def _taken_back(cases: int | None) -> str:
    if cases is None:
        return "; whether it learned from images that were taken back is not known (RL-1321)"
    return f"; learned from {cases} cases whose images were taken back since" if cases else ""


def _answer_change(card: Card, change: Any, as_json: bool) -> None:
    before, after = change.before, change.after
    answer = {
        "bundle": card.name,
        "before": {"version": before.number, "sha256": before.sha256},
        "champion": {"version": after.number, "sha256": after.sha256},
        "changed": before.number != after.number,
        "repaired": list(change.repaired),
    }
    now = f"version {after.number} serves (weights {after.sha256[:12]}…)"
    said = f"{now}, before it version {before.number}" if answer["changed"] else f"{now} already"
    _answer(answer, [*(f"repaired: {what}" for what in change.repaired), said], as_json)


def _answer(answer: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
    else:
        typer.echo("\n".join(lines))


for _command in (collect, run, gate, promote, rollback, status):
    _command.__doc__ = f"{inspect.getdoc(_command)}\n\n{CODES}"
