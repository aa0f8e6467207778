"""Checks of Python and torch."""

from __future__ import annotations

import platform
import sys

from flowar.doctor.finding import Finding, ok, wrong
from flowar.errors import first_line
from flowar.system.installation import INSTALL_TORCH, too_old

MINIMUM_PYTHON = (3, 10)
REINSTALL_TORCH = f"`{INSTALL_TORCH.replace('install', 'install --force-reinstall', 1)}`"


def python() -> Finding:
    """Check that Python is recent enough."""
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < MINIMUM_PYTHON:
        minimum = ".".join(map(str, MINIMUM_PYTHON))
        return wrong(f"{found} is too old", f"make an environment of Python {minimum} or later")
    return ok(found)


def torch_build() -> Finding:
    """Check that torch is there, loads, and is recent enough."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return wrong("not installed", f"`{INSTALL_TORCH}`")
        return wrong(f"does not load: {first_line(error)}", REINSTALL_TORCH)
    except (ImportError, OSError) as error:  # a library of its own or of CUDA is missing or does not fit
        return wrong(f"does not load: {first_line(error)}", REINSTALL_TORCH)
    if too_old(torch.__version__):
        return wrong(f"{torch.__version__} is too old", f"`{INSTALL_TORCH}`")
    return ok(torch.__version__)
