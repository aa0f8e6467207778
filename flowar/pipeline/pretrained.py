"""A model and its tokenizer as one: from and to files and the Hub, on a device, in a dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flowar.config import FlowARConfig
from flowar.engine.cuda_graph import GraphedFunction
from flowar.errors import FlowARError, shown
from flowar.model import FlowAR
from flowar.pipeline.facts import as_html, as_text, facts
from flowar.pipeline.offload import offload_device
from flowar.storage.hub import locate
from flowar.system.arguments import check_path, check_type, known_arguments
from flowar.system.precision import existing_device, resolve_precision
from flowar.system.tensors import check_floats
from flowar.system.together import write_together
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import check_tokenizer, load_tokenizer

Pipeline = TypeVar("Pipeline", bound="PretrainedPipeline")


class PretrainedPipeline:
    """A model with the tokenizer that it was trained on.

    Attributes:
        model, tokenizer: the two.
        decode_dtype: what the tokenizer decodes in, see `Tokenizer.decode`; float32 unless set.
        name_or_path: what `from_pretrained` was given; None for a pipeline that was made of its parts.

    Raises:
        FlowARError: if they do not belong together, naming both sides.
    """

    def __init__(self, model: FlowAR, tokenizer: Tokenizer) -> None:
        check_type("model", model, FlowAR, "a FlowAR")
        check_type("tokenizer", tokenizer, Tokenizer, "a tokenizer")
        record = dict(model.config.tokenizer or {}) | {"channels": model.config.latent_channels}
        check_tokenizer(record, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.decode_dtype = torch.float32
        self.name_or_path: str | None = None
        self._offload: torch.device | None = None
        self._progress_bar: dict[str, Any] = {}
        self._decode = GraphedFunction(self._decode_eagerly, "decoding", self._decoder_weights)

    @classmethod
    @known_arguments
    def from_pretrained(
        cls: type[Pipeline],
        source: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        dtype: torch.dtype | None = None,
        *,
        torch_dtype: torch.dtype | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        variant: str | None = None,
        use_safetensors: bool | None = None,
    ) -> Pipeline:
        """The pipeline of a folder, the Hub ("user/repo"), or one that ships with this package ("flowar-fashion").

        Args:
            source: a folder, a Hub id or a name.
            revision, cache_dir, token, local_files_only: of a Hub download; without a connection, the Hub's models are
                those in the cache.
            dtype: of the model's parameters; float32 if left out. The tokenizer stays in float32.
            torch_dtype: the same, by the name that it has in diffusers.
            variant: None, as a model has one file of weights, whatever the dtype they are stored in.
            use_safetensors: None or True, as nothing else is loaded.

        Raises:
            FlowARError: if there is none, or its files are unreadable or do not fit together; for two dtypes, for a
                variant, and where pickles are asked for.
        """
        if variant is not None:
            expected = "None, as a model has one file of weights, which dtype casts"
            raise FlowARError(f"variant: expected {expected}, got {shown(variant)}")
        if use_safetensors not in (None, True):
            raise FlowARError(f"use_safetensors: expected True, as no pickle is loaded, got {shown(use_safetensors)}")
        if dtype is not None and torch_dtype not in (None, dtype):
            raise FlowARError(f"torch_dtype: expected it or dtype, got {shown(torch_dtype)} beside {dtype}")
        wanted = torch_dtype or dtype or torch.float32
        folder = locate(source, revision, cache_dir, token, local_files_only)
        pipeline = cls(FlowAR.from_pretrained(folder, dtype=wanted), load_tokenizer(folder))
        pipeline.name_or_path = str(source)
        return pipeline

    @known_arguments
    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write model and tokenizer into one folder; `dtype` is that of the model's stored weights.

        Whenever the process is killed, the folder has all files as they were, or all new.

        Raises:
            OSError: if writing fails; files that were there stay as they were.
        """
        with write_together(check_path("folder", folder)) as aside:
            self.model.save_pretrained(aside, dtype)
            self.tokenizer.save_pretrained(aside)

    @property
    def config(self) -> FlowARConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def picture_size(self) -> tuple[int, int]:
        """The width and the height of the pictures, in pixels."""
        height, width = (side * self.tokenizer.stride for side in self.config.grid)
        return width, height

    @property
    def components(self) -> dict[str, nn.Module]:
        """The parts by name: `FlowARPipeline(**pipe.components)` is another pipeline of the same ones."""
        return {"model": self.model, "tokenizer": self.tokenizer}

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return self._parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's parameters. What a call computes in is its own `dtype`."""
        return self._parameter.dtype

    @known_arguments
    def to(
        self: Pipeline,
        device: torch.device | torch.dtype | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Pipeline:
        """Move both parts to `device`, and cast the model to `dtype`, in place; either may be given alone.

        The tokenizer stays in float32, see `decode_dtype`. This ends `enable_model_cpu_offload`.

        Raises:
            ValueError: for a device that this machine does not have, and a dtype that the model does not run in there.
        """
        if isinstance(device, torch.dtype):
            if dtype is not None:
                raise FlowARError(f"device: expected the name of a device before {dtype}, got {device}")
            device, dtype = None, device
        if device is None and dtype is None:
            raise FlowARError("to: expected a device, a dtype or both, got neither")
        place = self.device if device is None else existing_device(device)
        if dtype is not None:
            check_floats("dtype", dtype)
            resolve_precision(dtype, place, dtype)
        self.model.to(device=place, dtype=dtype or self.dtype)
        self.tokenizer.to(place)
        self._offload = None
        return self

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Keep both parts in the memory of the CPU, and each on a GPU only while it works.

        The model then leaves the GPU before the tokenizer comes. Every call moves them, packs the model's matrices and
        goes without CUDA graphs of the call before: it takes less memory, and more time.

        Args:
            gpu_id: the number of the GPU; the current one if left out.
            device: another accelerator.

        Raises:
            ValueError: on a machine without a GPU, where both parts are on the CPU as it is.
        """
        place = offload_device(gpu_id, device)
        self.to("cpu")
        self._offload = place

    def prepack(self: Pipeline, dtype: torch.dtype | str | None = None) -> Pipeline:
        """Keep the model's matrices packed alone, in place, where sampling in `dtype` gains by it.

        That is on a CPU, in the dtype of the parameters; see `FlowAR.prepack` for what it is and what undoes it.
        """
        if self.device.type == "cpu" and self.model.precision(dtype).dtype == self.dtype:
            self.model.prepack()
        return self

    def __repr__(self) -> str:
        return as_text(type(self).__name__, facts(self))

    def _repr_html_(self) -> str:
        """The same facts as a table, for notebooks."""
        return as_html(type(self).__name__, facts(self))

    @property
    def _parameter(self) -> Tensor:
        return self.model.ar_transformer.input_positions

    def _decode_eagerly(self, latents: Tensor) -> Tensor:
        """Images of latents in the dtype to decode in, so that a graph of one dtype is not taken for another."""
        images = self.tokenizer.decode(latents.to(self.tokenizer.mean.dtype), latents.dtype)
        return images.float()

    def _decoder_weights(self) -> list[Tensor]:
        return [*self.tokenizer.parameters(), *self.tokenizer.buffers()]
