"""What serves attention, and the precisions that the device computes in."""

from __future__ import annotations

from flowar.doctor.finding import Finding, ok, warning

INSTALL_FLASH = "pip install flowar[flash]"
REINSTALL_FLASH = "pip install --force-reinstall --no-deps --no-build-isolation flash-attn"


def attention() -> Finding:
    """Which implementation serves attention on the device that is used."""
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
    """What "auto" means here, and what else there is."""
    import torch

    from flowar.system.precision import default_device, resolve_precision, served_precisions

    device = default_device()
    automatic = resolve_precision("auto", device, torch.float32).name
    return ok(f"auto is {automatic} on {device}; there are {', '.join(served_precisions(device))}")
