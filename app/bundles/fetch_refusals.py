"""Why a published bundle is not fetched.

PublishedRefusal        RL-1530   anything below
├── LicenceNotAccepted  RL-1531   non-commercial, and nobody said yes to its licence
├── SourceUnreachable   RL-1532   no answer, or one that trying again does not change
├── RedirectUnsafe      RL-1533   sent on to an address that is not https, or in circles
├── FileTooLarge        RL-1534   more bytes than a bundle has, or than were announced
├── NoRoom              RL-1535   the disk is too small for it
├── ChecksumDiffers     RL-1536   not the bytes that the publisher names
├── FetchBusy           RL-1537   another fetch of the same bundle is under way
├── NotFetchable        RL-1538   the card names nothing that could be fetched
└── AreaUnfit           RL-1539   the folder of downloads can't be written
"""

from __future__ import annotations

from pathlib import Path

from operators.errors import ModelRefusal


class PublishedRefusal(ModelRefusal):
    """The bundle stays as it was; what has arrived of a good download is kept for the next try."""

    code = "RL-1530"


class LicenceNotAccepted(PublishedRefusal):
    """Its licence forbids commercial use, and nobody accepted it."""

    code = "RL-1531"

    def __init__(self, bundle: str, licence: str) -> None:
        super().__init__(
            f"bundle '{bundle}': its licence forbids commercial use ({licence}). Where your use "
            "is allowed, say so with --accept-licence; nothing was taken."
        )


class SourceUnreachable(PublishedRefusal):
    """The server gave nothing, or not all of it, within the tries that are made."""

    code = "RL-1532"

    def __init__(
        self, bundle: str, url: str, why: str, *, tries: int, held: int, by_hand: str
    ) -> None:
        times = "once" if tries == 1 else f"{tries} times"
        arrived = "Nothing has arrived."
        if held:
            arrived = f"What has arrived ({held} bytes) is kept: run the command again to go on."
        super().__init__(
            f"bundle '{bundle}': {url} {why} (tried {times}). {arrived} A site without internet "
            f"names its own server with --mirror or bundle_mirror, or {by_hand}."
        )


class RedirectUnsafe(PublishedRefusal):
    """Sent on to where the bytes could be changed on their way."""

    code = "RL-1533"

    def __init__(self, bundle: str, url: str, target: str, by_hand: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {url} sends on to {target}: only https is followed, or the "
            "scheme of the mirror, and no more than five times. Nothing was taken; whoever trusts "
            f"the address fetches it by hand and {by_hand}."
        )


class FileTooLarge(PublishedRefusal):
    """Larger than a bundle is, or than the server itself said."""

    code = "RL-1534"

    def __init__(self, bundle: str, url: str, found: str, limit: int, which: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {url} gives {found}; the limit is {limit} bytes ({which}). "
            "The download was stopped and deleted: ask who runs that server."
        )


class NoRoom(PublishedRefusal):
    """Less free disk than download and bundle need."""

    code = "RL-1535"

    def __init__(self, bundle: str, folder: Path, needed: int | None, free: int) -> None:
        need = f"{needed >> 20} MiB" if needed is not None else "more"
        super().__init__(
            f"bundle '{bundle}' needs {need} below {folder}, and {free >> 20} MiB are free. "
            "Free some disk, then run the command again: it goes on where it stopped."
        )


class ChecksumDiffers(PublishedRefusal):
    """Whole, and not what the publisher names."""

    code = "RL-1536"

    def __init__(self, bundle: str, url: str, kind: str, found: str, expected: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {url} has {kind} {found}, its publisher says {expected}. "
            "The download was deleted and nothing installed. Run the command again; if it stays "
            "so, the file was changed where it is kept."
        )


class FetchBusy(PublishedRefusal):
    """Another fetch writes the same files."""

    code = "RL-1537"

    def __init__(self, bundle: str) -> None:
        super().__init__(
            f"bundle '{bundle}' is being fetched by another command: wait for it, then try again."
        )


class NotFetchable(PublishedRefusal):
    """There is nothing to fetch by, or no use in it."""

    code = "RL-1538"

    def __init__(self, bundle: str, why: str) -> None:
        super().__init__(
            f"bundle '{bundle}' is not fetched: {why.rstrip('.')}. "
            f"`radloop bundles show {bundle}` tells what its card says."
        )


class AreaUnfit(PublishedRefusal):
    """No right to write where downloads are kept."""

    code = "RL-1539"

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"{folder} can't be written ({why}): nothing was fetched. "
            "Correct state_dir (`radloop doctor`)."
        )
