"""The check of the files of a model."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

from flowar.doctor.finding import Finding, ok, wrong
from flowar.errors import CheckpointError, FlowARError, first_line, shown
from flowar.storage.hub import ASSETS, locate
from flowar.system.files import open_regular
from flowar.system.installation import CHECKOUT, install_command
from flowar.system.structured import read_text

SHIPPED = "flowar-fashion"
CHECKSUMS = "SHA256SUMS"
CHECKSUM = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>(?!/|.*\.\.).+)")
CHUNK = 2**24  # bytes read at once
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
    try:
        lines = read_text(record, "checksums", FlowARError).splitlines()
    except FlowARError as error:
        return wrong(str(error), remedy(path))
    expected = [CHECKSUM.fullmatch(line) for line in lines]
    for line, match in zip(lines, expected, strict=True):
        if match is None:
            return wrong(f"{record}: expected a checksum and the name of a file, got {shown(line)}", remedy(path))
        file, digest = path / match["name"], match["digest"]
        if not file.exists():
            return wrong(f"{file} is missing", remedy(path))
        try:
            found = sha256(file)
        except OSError as error:
            return wrong(f"{file} cannot be read: {first_line(error)}", remedy(path))
        if found != digest:
            return wrong(f"{file} is damaged: expected SHA-256 {digest[:16]}…, got {found[:16]}…", remedy(path))
    return ok(f"{path.name}: {len(expected)} files as in {CHECKSUMS}")


def sha256(file: Path) -> str:
    """The SHA-256 of a file in hex digits. Raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with open_regular(file) as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def remedy(folder: Path) -> str:
    """The advice on how to get the files of a folder back."""
    if ASSETS in folder.parents:
        if (CHECKOUT / ".git").exists():
            return f"restore it with `git -C {shlex.quote(str(CHECKOUT))} checkout -- flowar/assets`"
        return f"reinstall flowar with `{install_command()}`"
    return "copy it again from where it came from"
