"""Models to and from files: this package's safetensors, and the authors' published checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flowar.config import FlowARConfig, grid_names
from flowar.errors import CheckpointError
from flowar.storage.hub import locate
from flowar.storage.published import infer_config, published_buffers, published_names, published_shapes
from flowar.storage.weights import (
    Shape,
    allocate,
    check_shapes,
    copy_weights,
    find_weights,
    metadata_record,
    open_safetensors,
    open_torch_file,
    safetensors_metadata,
    save_tensors,
    shapes_of,
)
from flowar.system.files import write_json
from flowar.system.memory import UNNOTICED, size
from flowar.system.rules import expanded
from flowar.system.structured import read_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
METADATA = "flowar"  # what the configuration is called in the metadata of the weights

Model = TypeVar("Model", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """A module that is built from a `FlowARConfig` alone, and can therefore be saved and loaded."""

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, which holds the configuration in its metadata too.

        Args:
            folder: made if it does not exist.
            dtype: of the stored weights; the parameters' own if left out. Loading gives float32 again.

        Raises:
            OSError: if writing fails; files that were there stay as they were.
        """
        folder, config = expanded(folder), self.config.to_dict()
        weights = {name: weight.to("cpu", dtype) for name, weight in self.state_dict().items()}
        save_tensors(folder / WEIGHTS_FILE, weights, {"format": "pt", METADATA: json.dumps(config)})
        write_json(folder / CONFIG_FILE, config)

    @classmethod
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
        """
        path = locate(source, revision, cache_dir)
        config = read_config(path)
        weights = path / WEIGHTS_FILE if path.is_dir() else path
        check_grids(config, weights)
        found = shapes_of(open_safetensors(weights))
        check_size(config, found, weights)
        model = skeleton(cls, config, dtype)
        check_shapes(found, shapes_of(dict(model.named_parameters())))
        allocate(model)
        copy_weights(model, lambda: open_safetensors(weights))
        return model

    @classmethod
    def from_published(
        cls: type[Model], source: str | Path | Mapping[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> Model:
        """The model of one of the authors' checkpoints; its size is read off the tensors.

        A file is mapped into memory and copied piece by piece: loading takes little more memory than the model. A state
        dict on the meta device gives a model on the meta device.

        Args:
            source: the `.pth` file, or a state dict with the published names.
            dtype: of the parameters, whatever the file's is.

        Raises:
            CheckpointError: for an unreadable file, or a missing, unexpected or misshapen tensor, naming it.
        """

        def open_tensors() -> dict[str, Tensor]:
            return find_weights(source) if isinstance(source, Mapping) else open_torch_file(expanded(source))

        tensors = open_tensors()
        found, on_meta = shapes_of(tensors), all(tensor.is_meta for tensor in tensors.values())
        del tensors  # and with them the mapping of the file
        config = infer_config(found)
        model = skeleton(cls, config, dtype)
        check_shapes(found, published_shapes(model, config), published_buffers(config))
        if not on_meta:
            allocate(model)
            copy_weights(model, open_tensors, lambda name: published_names(name, config))
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
    if path.is_dir():
        path = path / CONFIG_FILE
        values = read_json(path, dict)
    else:
        if METADATA not in safetensors_metadata(path):
            raise CheckpointError(f"{path}: expected a FlowAR configuration in the metadata, found none")
        values = metadata_record(path, METADATA, dict)
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


def check_grids(config: FlowARConfig, weights: Path) -> None:
    """Check that `config` has the grids of the weights, where their file tells: 2x8 has as many tokens as 8x2.

    Raises:
        CheckpointError: if it has others.
    """
    if METADATA not in safetensors_metadata(weights):
        return
    trained = read_config(weights).grids
    if config.grids != trained:
        expected, got = grid_names(trained), grid_names(config.grids)
        remedy = "to use another grid, train on with finetune.interpolate_positions true"
        raise CheckpointError(f"{weights}: expected the grids it was trained on, {expected}, got {got}; {remedy}")
