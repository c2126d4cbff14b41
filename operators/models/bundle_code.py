"""A bundle's own Python, importable while its config is made and nowhere else.

Zoo bundles name classes of a package in their own folder (``scripts.…``), and
nearly all call it by the same name. Two bundles in one process must not get
each other's: each time, the folder goes in front of `sys.path`, and what was
imported from it is taken out of `sys.modules` again afterwards. The classes
live on in the objects that were made of them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def own_modules(folder: Path) -> Iterator[None]:
    """Let `import` see the packages of a bundle; leave no trace.

    Parameters
    ----------
    folder : Path
        The bundle's root.
    """
    names = {item.stem for item in folder.glob("*") if item.is_dir() or item.suffix == ".py"}

    def of_bundle(module: str) -> bool:
        # A bundle can't take the place of what was there before it: `configs`, say.
        return module.partition(".")[0] in names

    with _ONE_AT_A_TIME:
        shadowed = {name: module for name, module in sys.modules.items() if of_bundle(name)}
        for name in shadowed:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            sys.path.remove(str(folder))
            for name in [name for name in sys.modules if of_bundle(name)]:
                del sys.modules[name]
            sys.modules.update(shadowed)
