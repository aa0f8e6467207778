"""Checks of the implementation of attention and of the precisions of the device."""

from __future__ import annotations

from flowar.doctor.finding import Finding, ok, warning
from flowar.system.installation import install_command

INSTALL_FLASH = f"`{install_command('flash')}`"
REINSTALL_FLASH = "`pip install --force-reinstall --no-deps --no-build-isolation flash-attn`"


def attention() -> Finding:
    """Check which implementation serves attention on the default device."""
    from flowar.networks.attention_backends import backend_report, flash_imports
    from flowar.system.precision import default_device

    device = default_device()
    backends = backend_report(device)
    flash, found = backends["attention flash"], backends["attention"]
    if "does not load" in flash_imports().problem and not flash_imports().installed:
        return warning(f"{found}; FlashAttention {flash}", REINSTALL_FLASH)
    if device.type == "cuda" and "unavailable" in flash:
        return warning(f"{found}; FlashAttention {flash}", INSTALL_FLASH)
    return ok(found)


def precision() -> Finding:
    """Report the precision that "auto" means on the default device, and the others."""
    import torch

    from flowar.system.precision import default_device, resolve_precision, served_precisions

    device = default_device()
    automatic = resolve_precision("auto", device, torch.float32).name
    return ok(f"auto is {automatic} on {device}; there are {', '.join(served_precisions(device))}")
