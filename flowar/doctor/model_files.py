"""The check of the files of a model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flowar.doctor.finding import Finding, ok, wrong
from flowar.errors import CheckpointError
from flowar.storage.hub import ASSETS, locate

SHIPPED = "flowar-fashion"
CHECKSUMS = "SHA256SUMS"
PRESETS = ("S", "B", "L", "H")
CHOOSE_MODEL = "name a shipped model, a folder, a Hub id, or a preset: S, B, L or H"


def is_preset(model: str) -> bool:
    """Whether `model` is the name of a preset, which has no files."""
    return model.upper() in PRESETS and not Path(model).exists()


def with_files(model: str) -> str:
    """The model whose files are checked: the shipped one for a preset."""
    return SHIPPED if is_preset(model) else model


def checksums(model: str) -> Finding:
    """Check the files against their checksums (`sha256sum * > SHA256SUMS`)."""
    try:
        path = locate(model)
    except CheckpointError as error:
        return wrong(str(error), CHOOSE_MODEL)
    record = path / CHECKSUMS
    if not record.exists():
        if ASSETS in path.parents:
            return wrong(f"{record} is missing", remedy(path))
        return ok(f"{path}, without {CHECKSUMS} to compare with")
    expected = [line.split(maxsplit=1) for line in record.read_text().splitlines()]
    for digest, name in expected:
        file = path / name
        if not file.exists():
            return wrong(f"{file} is missing", remedy(path))
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != digest:
            return wrong(f"{file} is damaged: expected SHA-256 {digest[:16]}…, got {found[:16]}…", remedy(path))
    return ok(f"{path.name}: {len(expected)} files as in {CHECKSUMS}")


def remedy(folder: Path) -> str:
    """The advice on how to get the files of a folder back."""
    if ASSETS in folder.parents:
        return "restore it with `git checkout -- flowar/assets` in a checkout, or reinstall flowar"
    return "copy it again from where it came from"
