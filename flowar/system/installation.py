"""Facts about the installation; this module can be imported where torch or the compiled ops cannot."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

MINIMUM_TORCH = (2, 11)
INSTALL_TORCH = f"pip install 'torch>={'.'.join(map(str, MINIMUM_TORCH))}'"

CHECKOUT = Path(__file__).parents[2]  # where the package is used from one


def install_command(extra: str = "") -> str:
    """The command that installs this package, or with the packages of an extra: from its checkout if it lies in one."""
    wanted = f"[{extra}]" if extra else ""
    if (CHECKOUT / "pyproject.toml").exists():
        return f'pip install -e "{CHECKOUT}{wanted}"'
    return f'pip install "flowar{wanted}"' if extra else "pip install --force-reinstall flowar"


REBUILD = f"rebuild it in this environment with `{install_command()}`"


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
