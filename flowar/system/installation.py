"""Facts about the installation; this module can be imported where torch or the compiled ops cannot."""

from __future__ import annotations

import os
from importlib import metadata

MINIMUM_TORCH = (2, 11)
REBUILD = "rebuild it in this environment with `pip install -e .` (or reinstall flowar)"
INSTALL_TORCH = f"pip install 'torch>={'.'.join(map(str, MINIMUM_TORCH))}'"


def too_old(torch_version: str) -> bool:
    """Whether a torch of this version is too old for the ops."""
    return tuple(int(part) for part in torch_version.split(".")[:2]) < MINIMUM_TORCH


def without_libraries() -> bool:
    """Whether the user asked for no compiled ops by FLOWAR_NO_EXT=1, now or at installation."""
    return os.environ.get("FLOWAR_NO_EXT") == "1" or _installed_without_libraries()


def _installed_without_libraries() -> bool:
    """Whether the installed wheel says that it holds Python alone, as one built under FLOWAR_NO_EXT=1 does."""
    try:
        wheel = metadata.distribution("flowar").read_text("WHEEL")
    except metadata.PackageNotFoundError:
        return False
    return "Root-Is-Purelib: true" in (wheel or "")
