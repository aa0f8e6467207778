"""From class labels to pictures: a model and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowar.data.class_names import class_names_of, resolve
from flowar.engine.cuda_graph import GraphedFunction
from flowar.images.grid import to_pil
from flowar.model import FlowAR
from flowar.sampling.options import SamplingOptions
from flowar.storage.hub import locate
from flowar.system.arguments import check_function, check_integer, check_path, check_type
from flowar.system.memory import check_memory
from flowar.system.precision import existing_device
from flowar.system.tensors import check_tensor
from flowar.system.together import write_together
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import check_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Unpack

    from flowar.sampling.callbacks import OnEvaluation, OnScale
    from flowar.sampling.pins import Pins
    from flowar.sampling.schedule import Schedule

__all__ = ["FlowARPipeline", "PictureOptions", "PipelineOutput"]

Preview = Callable[[int, "list[Image]"], None]  # called with (k, pictures [B] of full size)


class PictureOptions(SamplingOptions, total=False):
    """How to draw pictures, as keyword arguments: those of a pipeline's call but `class_labels`, `noise` and `pins`."""

    preview: Preview | None
    preview_steps: bool


class PipelineOutput(NamedTuple):
    """Pictures and the normalised latents [B, c, h, w] they were decoded from."""

    images: list[Image]
    latents: Tensor


class FlowARPipeline:
    """A model with the tokenizer that it was trained on.

    Attributes:
        decode_dtype: what the tokenizer decodes in, see `Tokenizer.decode`; float32 unless set.

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
        self._decode = GraphedFunction(self._decode_eagerly, "decoding", self._decoder_weights)

    @staticmethod
    def from_pretrained(
        source: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> FlowARPipeline:
        """The pipeline of a folder, the Hub ("user/repo"), or one that ships with this package ("flowar-fashion").

        Args:
            source, revision, cache_dir, dtype: as of `FlowAR.from_pretrained`; without a connection, the Hub's models
                are those in the cache.

        Raises:
            FlowARError: if there is none, or its files are unreadable or do not fit together.
        """
        folder = locate(source, revision, cache_dir)
        return FlowARPipeline(FlowAR.from_pretrained(folder, dtype=dtype), load_tokenizer(folder))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write model and tokenizer into one folder; `dtype` is that of the model's stored weights.

        Whenever the process is killed, the folder has all files as they were, or all new.

        Raises:
            OSError: if writing fails; files that were there stay as they were.
        """
        with write_together(check_path("folder", folder)) as aside:
            self.model.save_pretrained(aside, dtype)
            self.tokenizer.save_pretrained(aside)

    def push_to_hub(
        self,
        repo: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload model",
        dtype: torch.dtype | None = None,
        **card: Any,
    ) -> str:
        """Upload model, tokenizer and a card to the Hub, from where `from_pretrained(repo)` loads them again.

        Args:
            repo: "user/name".
            revision, private, token: see `flowar.sharing.push.Repository`.
            commit_message: the first line of its message.
            dtype: of the model's stored weights.
            card: the fields of `flowar.sharing.model_card.CardDetails`: license, training_data, datasets, evaluation,
                samples.

        Returns:
            The address of the commit.

        Raises:
            FlowARError: without a token, for an evaluation of another model, or if the Hub refuses or is out of reach.
        """
        from flowar.sharing.model_card import CardDetails
        from flowar.sharing.push import Repository, push_pipeline

        repository, details = Repository(repo, revision, private, token), CardDetails(**card)
        return push_pipeline(self, repository, details, commit_message, dtype)

    def to(self, device: torch.device | str) -> FlowARPipeline:
        """Move both to `device`, in place. Raises ValueError for one that this machine does not have."""
        device = existing_device(device)
        self.model.to(device)
        self.tokenizer.to(device)
        return self

    def prepack(self, dtype: torch.dtype | str | None = None) -> FlowARPipeline:
        """Keep the model's matrices packed alone, in place, where sampling in `dtype` gains by it.

        That is on a CPU, in the dtype of the parameters; see `FlowAR.prepack` for what it is and what undoes it.
        """
        parameter = self.model.ar_transformer.input_positions
        if parameter.device.type == "cpu" and self.model.precision(dtype).dtype == parameter.dtype:
            self.model.prepack()
        return self

    def __call__(
        self,
        class_labels: Tensor | Sequence[int | str] | int | str,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        *,
        schedule: Schedule | str | None = None,
        seed: int | Sequence[int] = 0,
        noise: Sequence[Tensor] | None = None,
        naive: bool = False,
        dtype: torch.dtype | str | None = None,
        progress: bool | None = None,
        on_scale: OnScale | None = None,
        on_evaluation: OnEvaluation | None = None,
        pins: Pins | None = None,
        preview: Preview | None = None,
        preview_steps: bool = False,
    ) -> PipelineOutput:
        """Draw one picture per label.

        Args:
            class_labels: [B] labels or class names (see `flowar.data.class_names.resolve`), or one of them for one
                image.
            num_inference_steps, guidance_scale, guidance_interval, schedule: when the ODE of each scale is evaluated,
                and guidance; the model's own preset if left out. This and all that follows up to `pins` is explained at
                `FlowAR.sample`.
            seed: one for the batch, or one per image.
            noise: what sampling starts from instead of a seed, for every scale [B, n_k, c].
            naive: run the published algorithm without any saving.
            dtype: what the networks compute in.
            progress: show a bar; by default only on a terminal.
            on_scale, on_evaluation: functions that are called with latents on the way.
            pins: latents to arrive at in some places.
            preview: called with (k, pictures) after every scale: its latents, brought to the finest grid and decoded.
            preview_steps: call `preview` at every evaluation too, with what the velocity points at; see
                `on_evaluation` of `FlowAR.sample` for what that costs.

        Returns:
            The pictures, one per label in their order, and the latents [B, c, h, w] they were decoded from.

        Raises:
            ValueError: as `FlowAR.sample`, and for a name of no class or of several, with the closest ones.

        Example:
            ```python
            pipe = FlowARPipeline.from_pretrained("flowar-fashion")
            images, latents = pipe(["Ankle boot", 3], seed=[7, 8], guidance_scale=3.0)
            images[0].save("boot.png")
            ```
        """
        check_function("preview", preview)
        if preview is not None:
            on_scale = previewing(self.decode_tokens, preview, on_scale)
            if preview_steps:
                on_evaluation = previewing(self.decode_tokens, preview, on_evaluation)
        latents = self.sample(
            class_labels,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            schedule=schedule,
            seed=seed,
            noise=noise,
            naive=naive,
            dtype=dtype,
            progress=progress,
            on_scale=on_scale,
            on_evaluation=on_evaluation,
            pins=pins,
        )
        return PipelineOutput(self.decode(latents), latents)

    def sample(
        self,
        class_labels: Tensor | Sequence[int | str] | int | str,
        *,
        noise: Sequence[Tensor] | None = None,
        pins: Pins | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Tensor:
        """Latents [B, c, h, w] alone: `FlowAR.sample`, with class names too.

        Raises:
            ValueError: as calling the pipeline does.
        """
        return self.model.sample(self._labels(class_labels), noise=noise, pins=pins, **options)

    def decode(self, latents: Tensor) -> list[Image]:
        """Pictures of normalised latents [B, c, h, w], as many at once as memory allows.

        Raises:
            ValueError: for latents of another number of channels, or on another device.
        """
        at_once = self.tokenizer.images_at_once(latents)
        parts = latents.to(self.decode_dtype).split(at_once)
        return [image for part in parts for image in to_pil(self._decode(part))]

    def decode_tokens(self, tokens: Tensor, scale: int) -> list[Image]:
        """Pictures of full size from tokens [B, n_k, c] of a scale, whose grid is enlarged to the finest (bicubic).

        Raises:
            ValueError: for a scale that the model does not have, and tokens that are not its.
        """
        lengths = self.model.config.scale_lengths
        scale = check_integer("scale", scale, 0, len(lengths) - 1)
        check_tensor("tokens", tokens, ("B", lengths[scale], self.model.config.latent_channels))
        config, grid = self.model.config, self.model.pyramid.to_grid(tokens.float(), scale)  # [B, c, h_k, w_k]
        if config.grids[scale] != config.grid:
            grid = F.interpolate(grid, size=config.grid, mode="bicubic")
        return self.decode(grid.contiguous())

    def check_count(self, name: str, count: int) -> None:
        """Check that so many pictures, drawn together, fit into the memory with the latents that they come from.

        Raises:
            FlowARError: if they do not, with the estimate; `name` is the option that asks for them.
        """
        config = self.model.config
        height, width = (side * self.tokenizer.stride for side in config.grid)
        latents = 2 * 4 * config.latent_channels * config.scale_lengths[-1]  # noise and state, float32
        check_memory(name, f"{count} pictures of {width}x{height}", count * (latents + height * width))

    def _labels(self, classes: Tensor | Sequence[int | str] | int | str) -> Tensor | Sequence[int] | int:
        """`classes` with every name replaced by its label."""
        given = [classes] if isinstance(classes, str) else classes
        if isinstance(given, Sequence) and any(isinstance(each, str) for each in given):
            return resolve(given, class_names_of(self.model.config))
        return given  # type: ignore[return-value]

    def _decode_eagerly(self, latents: Tensor) -> Tensor:
        """Images of latents in the dtype to decode in, so that a graph of one dtype is not taken for another."""
        return self.tokenizer.decode(latents.float(), latents.dtype)

    def _decoder_weights(self) -> list[Tensor]:
        return [*self.tokenizer.parameters(), *self.tokenizer.buffers()]


def previewing(
    decode: Callable[[Tensor, int], list[Image]], preview: Preview, callback: Callable[..., None] | None
) -> Callable[..., None]:
    """An `on_scale` or `on_evaluation` of `FlowAR.sample`: calls `callback`, if there is one, then `preview`.

    Both are called with the number of the scale first and its tokens last; `decode` makes pictures of these two.
    """

    def call(scale: int, *details: Any) -> None:
        if callback is not None:
            callback(scale, *details)
        preview(scale, decode(details[-1], scale))

    return call
