"""OHIF's files: what is a file is sent, every other path is the application's own page.

OHIF routes in the browser, so `/viewer?StudyInstanceUIDs=…` has to answer
`index.html`. The build's `app-config.js` is never sent: ours takes its place.
"""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse

from app.viewer.refusals import OhifMissing, PathRefused

APP_CONFIG = Path(__file__).resolve().parents[2] / "pacs_config" / "ohif" / "app-config.js"
PAGE = "index.html"
# A machine's own table may lack these; Chromium runs no module or wasm of another type.
MEDIA_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
_NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{16}")
FOR_EVER = "public, max-age=31536000, immutable"


def safe_segments(path: str) -> list[str]:
    """The parts of a decoded URL path.

    Raises
    ------
    PathRefused
        A part that would lead out of where it is looked up.
    """
    segments = path.split("/")
    if any(part in ("..", ".") or "\\" in part or "\0" in part for part in segments):
        raise PathRefused("it holds a dot segment, a backslash or a zero byte")
    return segments


class OhifSite:
    """The viewer's own files.

    Parameters
    ----------
    folder : Path
        OHIF's `dist`.

    Raises
    ------
    OhifMissing
        It holds no `index.html`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        if not (self._folder / PAGE).is_file():
            raise OhifMissing(folder)

    def file_for(self, path: str) -> Path:
        """The file that answers a path.

        Parameters
        ----------
        path : str
            Decoded URL path, with or without its first slash.

        Raises
        ------
        PathRefused
            It would lead out of the folder.
        """
        wanted = [part for part in safe_segments(path) if part]
        if wanted == [APP_CONFIG.name]:
            return APP_CONFIG
        file = self._folder.joinpath(*wanted).resolve()
        if not file.is_relative_to(self._folder):  # by a link in the folder
            raise PathRefused("it leads out of the viewer's folder", 404)
        return file if file.is_file() else self._folder / PAGE

    async def answer(self, request: Request) -> FileResponse:
        """Send a file."""
        file = self.file_for(request.path_params["path"])
        kind = MEDIA_TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0]
        keep = FOR_EVER if _NAMED_BY_CONTENT.search(file.name) else "no-cache"
        return FileResponse(
            file, media_type=kind or "application/octet-stream", headers={"Cache-Control": keep}
        )
