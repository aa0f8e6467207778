"""Models to and from files: this package's safetensors, and the authors' published checkpoints."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flowar.config import FlowARConfig, grid_names
from flowar.errors import CheckpointError
from flowar.storage.checksums import read_checksums
from flowar.storage.foreign import open_foreign
from flowar.storage.hub import locate
from flowar.storage.published import infer_config, published_buffers, published_names, published_shapes
from flowar.storage.weights import (
    Shape,
    allocate,
    check_shapes,
    copy_weights,
    map_safetensors,
    read_header,
    safetensors_metadata,
    save_tensors,
    shapes_of,
)
from flowar.system.arguments import check_path, check_type, known_arguments
from flowar.system.files import write_json
from flowar.system.memory import UNNOTICED, size
from flowar.system.structured import parse_record, read_json
from flowar.system.tensors import check_floats
from flowar.system.together import write_together

log = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
METADATA = "flowar"  # what the configuration is called in the metadata of the weights

Model = TypeVar("Model", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """A module that is built from a `FlowARConfig` alone, and can therefore be saved and loaded."""

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__()
        check_type("config", config, FlowARConfig, "a FlowARConfig")
        self.config = config

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, which holds the configuration in its metadata too.

        Whenever the process is killed, the folder has both files as they were, or both new.

        Args:
            folder: made if it does not exist.
            dtype: of the stored weights; the parameters' own if left out. Loading gives float32 again.

        Raises:
            ValueError: for a folder that is no path, and a dtype that is not floating.
            OSError: if writing fails; files that were there stay as they were.
        """
        if dtype is not None:
            check_floats("dtype", dtype)
        folder, config = check_path("folder", folder), self.config.to_dict()
        weights = {name: weight.to("cpu", dtype) for name, weight in self.state_dict().items()}
        with write_together(folder) as aside:
            save_tensors(aside / WEIGHTS_FILE, weights, {"format": "pt", METADATA: json.dumps(config)})
            write_json(aside / CONFIG_FILE, config)

    @classmethod
    @known_arguments
    def from_pretrained(
        cls: type[Model],
        source: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Model:
        """The model of a folder, a `.safetensors` file, the Hub ("user/repo"), or one that ships with this package.

        Args:
            source: what `save_pretrained` wrote, or a name for it.
            revision, cache_dir: of a Hub download.
            dtype: of the parameters.

        Raises:
            CheckpointError: if there is no such model, or its files are unreadable or do not fit together.
            ValueError: for a source that is no path, and a dtype that is not floating.
        """
        check_floats("dtype", dtype)
        path = locate(source, revision, cache_dir)
        if path.is_file() and path.suffix != ".safetensors":
            expected = "expected a folder or a safetensors file"
            raise CheckpointError(f"{path}: {expected}; flowar convert makes one of the authors' checkpoints")
        config = read_config(path)
        weights = path / WEIGHTS_FILE if path.is_dir() else path
        header = read_header(weights)
        checksums = read_checksums(weights, *header)
        check_stored_config(config, weights, header.metadata)
        check_size(config, header.shapes, weights)
        model = skeleton(cls, config, dtype)
        check_shapes(header.shapes, shapes_of(dict(model.named_parameters())))
        allocate(model)
        copy_weights(model, lambda: map_safetensors(weights), where=weights, checksums=checksums)
        return model

    @classmethod
    def from_published(
        cls: type[Model],
        source: str | Path | Mapping[str, Tensor],
        dtype: torch.dtype = torch.float32,
        ar_heads: int | None = None,
        flow_heads: int | None = None,
    ) -> Model:
        """The model of one of the authors' checkpoints, or of one that was trained with their code.

        Its size is read off the tensors. A file is mapped into memory and copied piece by piece: loading takes little
        more memory than the model. A state dict on the meta device gives a model on the meta device.

        Args:
            source: the `.pth` file, or a safetensors file or a state dict with the published names. Of a training
                checkpoint, the averaged weights are taken, which is logged.
            dtype: of the parameters, whatever the file's is.
            ar_heads, flow_heads: attention heads of the two transformers, for a model of a size that was not published
                whose checkpoint has no rotary tables, which tell them.

        Raises:
            CheckpointError: for an unreadable file, and a missing, unexpected or misshapen tensor, or one that is not
                finite, naming it; and for heads that nothing tells, or that are not those of the rotary tables.
        """
        check_floats("dtype", dtype)
        foreign = open_foreign(source)
        found, on_meta = shapes_of(foreign.tensors), all(tensor.is_meta for tensor in foreign.tensors.values())
        where = "checkpoint" if isinstance(source, Mapping) else source
        if foreign.taken:
            log.info("%s: taking %s", where, foreign.taken)
        del foreign  # and with it the mapping of the file
        config = infer_config(found, {"ar_heads": ar_heads, "flow_heads": flow_heads})
        model = skeleton(cls, config, dtype)
        check_shapes(found, published_shapes(model, config), published_buffers(config))
        if not on_meta:
            allocate(model)
            sources = functools.partial(published_names, config=config)
            copy_weights(model, lambda: open_foreign(source).tensors, sources, where)
        return model


def skeleton(cls: type[Model], config: FlowARConfig, dtype: torch.dtype) -> Model:
    """A model without memory for its parameters, for inference."""
    with torch.device("meta"), WithoutDraws():
        return cls(config).to(dtype).eval()


class WithoutDraws(TorchFunctionMode):
    """A mode in which nothing draws the first values of parameters.

    A tensor on the meta device has none, and to draw them all the same PyTorch imports its compiler, for seconds.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs)


def read_config(path: Path) -> FlowARConfig:
    """The configuration in a model's folder, or in the metadata of a single safetensors file.

    Raises:
        CheckpointError: if it is missing, unreadable, or not one that a model can have.
    """
    if not path.is_dir():
        return stored_config(path, safetensors_metadata(path))
    path = path / CONFIG_FILE
    values = read_json(path, dict)
    try:
        return FlowARConfig.from_dict(values)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def check_size(config: FlowARConfig, found: Mapping[str, Shape], weights: Path) -> None:
    """Check that `config` is not far larger than the weights in a file, before a model of it is made.

    Raises:
        CheckpointError: if it is.
    """
    stored = 4 * sum(map(math.prod, found.values()))
    if config.nbytes > UNNOTICED + 2 * stored:
        expected = f"weights of about {size(config.nbytes)} in float32, as the configuration says"
        raise CheckpointError(f"{weights}: expected {expected}, got {size(stored)}")


def stored_config(weights: Path, metadata: Mapping[str, str]) -> FlowARConfig:
    """The configuration in the `metadata` of a file of weights.

    Raises:
        CheckpointError: if there is none, or not one that a model can have.
    """
    if METADATA not in metadata:
        remedy = "flowar convert reads files with the authors' names"
        raise CheckpointError(f"{weights}: expected a FlowAR configuration in the metadata, found none; {remedy}")
    values = parse_record(metadata[METADATA], dict, f"{weights}: metadata {METADATA}", CheckpointError)
    try:
        return FlowARConfig.from_dict(values)
    except ValueError as error:
        raise CheckpointError(f"{weights}: {error}") from error


def check_stored_config(config: FlowARConfig, weights: Path, metadata: Mapping[str, str]) -> None:
    """Compare `config` with what the weights were saved with, where their file tells.

    Grids must be the same, as 2x8 has as many tokens as 8x2. Other fields may have been edited, which is logged.

    Raises:
        CheckpointError: if the grids are others.
    """
    if METADATA not in metadata:
        return
    stored = stored_config(weights, metadata)
    if config.grids != stored.grids:
        expected, got = grid_names(stored.grids), grid_names(config.grids)
        remedy = "to use another grid, train on with finetune.interpolate_positions true"
        raise CheckpointError(f"{weights}: expected the grids it was trained on, {expected}, got {got}; {remedy}")
    edited = [field.name for field in fields(config) if getattr(config, field.name) != getattr(stored, field.name)]
    if edited:
        log.warning("%s: saved with another %s than %s has", weights, " and ".join(edited), CONFIG_FILE)
