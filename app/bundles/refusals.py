"""Why a bundle is not imported.

ImportRefusal           RL-1110   anything below
├── SourceUnfit         RL-1111   neither a folder nor a zip
├── EntryUnsafe         RL-1112   an entry that would leave the folder, or is no plain file
├── BundleTooLarge      RL-1113   more files or bytes than a bundle has
├── LayoutUnfit         RL-1114   a part of the zoo's layout is missing, or only TorchScript
├── NoCard              RL-1115   nobody says what the labels mean
├── CardDiffers         RL-1116   a card of its own under a name that the zoo's card owns
├── LabelsDiffer        RL-1117   metadata and card do not speak of the same labels
├── PublisherDiffers    RL-1118   not the bytes that the publisher names
├── AlreadyInstalled    RL-1119   other bytes under the same version
├── NameUnfit           RL-1120   a name that can't be used, or is a shipped bundle's
├── ImportBusy          RL-1121   another import is under way
└── StoreUnfit          RL-1122   the folder of imported bundles can't be written
"""

from __future__ import annotations

from pathlib import Path

from operators.errors import ModelRefusal


class ImportRefusal(ModelRefusal):
    """A bundle stays outside; what was installed before is untouched."""

    code = "RL-1110"


class SourceUnfit(ImportRefusal):
    """What was named is neither a folder nor a zip file."""

    code = "RL-1111"

    def __init__(self, source: Path) -> None:
        super().__init__(
            f"{source} is neither a folder nor a zip file: name a MONAI bundle on this machine."
        )


class EntryUnsafe(ImportRefusal):
    """An entry of the source can't be taken over safely."""

    code = "RL-1112"

    def __init__(self, entry: str, problem: str, remedy: str) -> None:
        super().__init__(f"entry {entry!r} {problem}: nothing was imported. {remedy}")


class BundleTooLarge(ImportRefusal):
    """More than any bundle has."""

    code = "RL-1113"

    def __init__(self, what: str, limit: str) -> None:
        super().__init__(
            f"the bundle has more {what} than the limit of {limit}: nothing was imported. "
            "Take out what is not part of the bundle (data, results) and import it again."
        )


class LayoutUnfit(ImportRefusal):
    """Not laid out as the MONAI model zoo lays out a bundle."""

    code = "RL-1114"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            f"bundle '{name}': {problem}. It needs configs/metadata.json, configs/inference.json "
            "or .yaml, and the weights as a state dict (models/model.pt)."
        )


class NoCard(ImportRefusal):
    """There is no card, neither in the bundle nor in the zoo."""

    code = "RL-1115"

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(
            f"bundle '{name}' has no card.yaml, and the zoo's cards are for {', '.join(known)}. "
            "Write one (docs/bundles.md), or say with --as which of these it is."
        )


class CardDiffers(ImportRefusal):
    """A card of its own under a name that belongs to the zoo."""

    code = "RL-1116"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"bundle '{name}' brings a card.yaml that is not radloop's card of that name. "
            "Import it under another name (--as NAME), or take its card.yaml out."
        )


class LabelsDiffer(ImportRefusal):
    """Metadata and card do not speak of the same labels."""

    code = "RL-1117"

    def __init__(self, name: str, channel: int, metadata: str, card: str) -> None:
        super().__init__(
            f"bundle '{name}': channel {channel} is {metadata} in configs/metadata.json and "
            f"{card} on the card. A wrong organ would be written: mend the card, or take the "
            "version of the bundle that it was written for."
        )


class PublisherDiffers(ImportRefusal):
    """A file is not the one that the publisher names."""

    code = "RL-1118"

    def __init__(self, name: str, file: str, kind: str, found: str, published: str) -> None:
        super().__init__(
            f"bundle '{name}': {file} has {kind} {found}, its publisher says {published} for this "
            "version. Fetch it again; weights of your own need a name of their own (--as NAME) "
            "and a card.yaml."
        )


class AlreadyInstalled(ImportRefusal):
    """Other bytes under the version that is installed."""

    code = "RL-1119"

    def __init__(self, name: str, version: str, weights: str, installed: str) -> None:
        super().__init__(
            f"bundle '{name}' {version} is installed with other content (weights sha256 "
            f"{installed[:12]}…, new {weights[:12]}…). Give --replace to put the new one in its "
            "place, or --as NAME to keep both."
        )


class NameUnfit(ImportRefusal):
    """The name can't be used."""

    code = "RL-1120"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name!r} {why}. Choose another name with --as NAME.")


class ImportBusy(ImportRefusal):
    """Another import works on the same folder of bundles."""

    code = "RL-1121"

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another import is under way in {folder}: wait for it, then try again.")


class StoreUnfit(ImportRefusal):
    """The folder of imported bundles can't be written."""

    code = "RL-1122"

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"{folder} can't be written ({why}): nothing was imported. "
            "Free some disk or correct state_dir (`radloop doctor`)."
        )
