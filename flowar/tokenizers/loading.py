"""Tokenizers from files, and the check that one fits a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from flowar.errors import CheckpointError, FlowARError, first_line, shown
from flowar.storage.hub import locate
from flowar.storage.weights import load_weights
from flowar.system.rules import Name
from flowar.system.structured import as_record, read_json
from flowar.tokenizers.autoencoder import AutoencoderTokenizer, Channels, check_vae, check_widths
from flowar.tokenizers.base import RECORD_FILE, WEIGHTS_FILE, Tokenizer
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.kl16 import load_kl16
from flowar.tokenizers.pixel import PixelTokenizer


class TokenizerRecord(TypedDict, total=False):
    """What `Tokenizer.record` gives."""

    kind: Name
    image_channels: Channels
    channels: Channels
    stride: Channels
    mean: list[float]
    std: list[float]
    widths: list[Channels]
    vae: Mapping[str, Any]
    weights: str


KINDS: dict[str, type[Tokenizer]] = {kind.kind: kind for kind in (PixelTokenizer, ConvTokenizer, AutoencoderTokenizer)}
DESCRIBED_BY = {WEIGHTS_FILE: RECORD_FILE, "diffusion_pytorch_model.safetensors": "config.json"}  # weights by what
COMPARED = ("channels", "stride", "image_channels", "mean", "std", "kind", "weights")


def load_tokenizer(source: str | Path, revision: str | None = None, cache_dir: str | Path | None = None) -> Tokenizer:
    """The tokenizer of any source that has one.

    Args:
        source: a folder that `Tokenizer.save_pretrained` wrote, a folder with an autoencoder of diffusers, a file of
            weights in either, a Hub id of either, the name of a shipped model, or the file `kl16.ckpt`.
        revision, cache_dir: of a Hub download.

    Raises:
        CheckpointError: if there is none, or its files are unreadable or do not fit together.
        MissingPackageError: if it needs diffusers, which is not installed.
    """
    path = locate(source, revision, cache_dir)
    if path.is_file():
        beside = path.with_name(DESCRIBED_BY.get(path.name, path.name))
        if beside == path or not beside.is_file():
            return load_kl16(path)
        path = path.parent
    if (path / RECORD_FILE).is_file():
        return restore(path)
    if (path / "config.json").is_file() or (path / "vae" / "config.json").is_file():
        return AutoencoderTokenizer.from_diffusers(path)
    raise CheckpointError(f"{path}: expected {RECORD_FILE} or config.json of a diffusers autoencoder, found neither")


def restore(folder: Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save_pretrained` wrote."""
    record = read_json(folder / RECORD_FILE, dict)
    if record.get("kind") not in (*KINDS,):
        got = shown(record.get("kind"))
        raise CheckpointError(f"{folder}: expected a tokenizer of kind {', '.join(KINDS)}, got {got}")
    check_size(folder / RECORD_FILE, record)
    try:
        tokenizer = KINDS[record["kind"]].from_record(record)
    except FlowARError:
        raise
    except Exception as error:  # a record edited by hand can be wrong in any way
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{folder / RECORD_FILE}: expected the record of a tokenizer ({reason})") from error
    if tokenizer.state_dict():
        load_weights(tokenizer, folder / WEIGHTS_FILE)
    check_tokenizer(record, tokenizer)
    return tokenizer.eval()


def check_size(path: Path, record: Mapping[str, Any]) -> None:
    """Check the record of a tokenizer in a file, and that the convolutions that it asks for fit into the memory.

    Raises:
        CheckpointError: if it is none.
        FlowARError: if they do not fit, with the estimate.
    """
    check_widths(path, as_record(record, TokenizerRecord, str(path)).get("widths", []))
    if "vae" in record:
        check_vae(path, record["vae"])


def check_tokenizer(record: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Check that `tokenizer` is the one of `record`, as far as the record goes.

    Args:
        record: what `Tokenizer.record` gave; a model's configuration keeps that of its tokenizer.

    Raises:
        FlowARError: naming the first difference and both sides.
    """
    own = tokenizer.record()
    for key in COMPARED:
        if key in record and not same(record[key], own.get(key)):
            raise FlowARError(
                f"tokenizer: expected {key} {record[key]} ({summary(record)}), got {own.get(key)} ({summary(own)})"
            )


def same(expected: Any, got: Any) -> bool:
    """Whether two records are equal, numbers up to the rounding of float32."""
    if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
        return math.isclose(expected, got, rel_tol=1e-5, abs_tol=2e-6)
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)):
        return len(expected) == len(got) and all(map(same, expected, got))
    return bool(expected == got)


def summary(record: Mapping[str, Any]) -> str:
    """A tokenizer in a few words."""
    kind, channels, stride = (record.get(key, "?") for key in ("kind", "channels", "stride"))
    return f"{kind} tokenizer, {channels} channels, stride {stride}"
