"""What an installation of this package is made of; importable where torch or the compiled ops are not."""

from __future__ import annotations

import os
from importlib import metadata

MINIMUM_TORCH = (2, 11)
REBUILD = "rebuild it in this environment with `pip install -e .` (or reinstall flowar)"
INSTALL_TORCH = f"pip install 'torch>={'.'.join(map(str, MINIMUM_TORCH))}'"


def too_old(torch_version: str) -> bool:
    """Whether a torch of this version lacks what the ops need."""
    return tuple(int(part) for part in torch_version.split(".")[:2]) < MINIMUM_TORCH


def without_libraries() -> bool:
    """True where the user asked for no compiled ops, now or when flowar was installed, by FLOWAR_NO_EXT=1."""
    return os.environ.get("FLOWAR_NO_EXT") == "1" or _installed_without_libraries()


def _installed_without_libraries() -> bool:
    """An installation under FLOWAR_NO_EXT=1 has a wheel that says that it holds Python alone."""
    try:
        wheel = metadata.distribution("flowar").read_text("WHEEL")
    except metadata.PackageNotFoundError:
        return False
    return "Root-Is-Purelib: true" in (wheel or "")
