"""From class labels to pictures: a model and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from flowar.data.class_names import class_names_of, resolve
from flowar.engine.cuda_graph import GraphedFunction
from flowar.images import to_pil
from flowar.model import FlowAR
from flowar.sampling.options import SamplingOptions
from flowar.storage.hub import Repository, locate
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import check_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Unpack

    from flowar.preview.scales import Preview
    from flowar.sampling.callbacks import OnEvaluation, OnScale
    from flowar.sampling.pins import Pins
    from flowar.sampling.schedule import Schedule

__all__ = ["FlowARPipeline", "PictureOptions", "PipelineOutput"]


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
        record = dict(model.config.tokenizer or {}) | {"channels": model.config.latent_channels}
        check_tokenizer(record, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self._may_prepack = False  # a model from elsewhere may be in training
        self.decode_dtype = torch.float32
        # Latents come in the dtype to decode in, so that a graph of one dtype is not taken for another.
        self._decode = GraphedFunction(
            lambda latents: self.tokenizer.decode(latents.float(), latents.dtype), "decoding", self._decoder_weights
        )

    @staticmethod
    def from_pretrained(
        source: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> FlowARPipeline:
        """The pipeline of a folder, the Hub ("user/repo"), or one that ships with this package ("flowar-fashion").

        Its model is for sampling: on a CPU, sampling in the dtype of the parameters prepacks it (`FlowAR.prepack`).

        Args:
            source, revision, cache_dir, dtype: as of `FlowAR.from_pretrained`; without a connection, the Hub's models
                are those in the cache.

        Raises:
            FlowARError: if there is none, or its files are unreadable or do not fit together.
        """
        folder = locate(source, revision, cache_dir)
        pipeline = FlowARPipeline(FlowAR.from_pretrained(folder, dtype=dtype), load_tokenizer(folder))
        pipeline._may_prepack = True
        return pipeline

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write model and tokenizer into one folder; `dtype` is that of the model's stored weights.

        Raises:
            OSError: if writing fails; files that were there stay as they were.
        """
        self.model.save_pretrained(folder, dtype)
        self.tokenizer.save_pretrained(folder)

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
            revision, private, token: see `flowar.storage.hub.Repository`.
            commit_message: the first line of its message.
            dtype: of the model's stored weights.
            card: the fields of `flowar.sharing.model_card.CardDetails`: license, training_data, datasets, evaluation,
                samples.

        Returns:
            The address of the commit.

        Raises:
            FlowARError: without a token, for an evaluation of another model, or if the Hub refuses or is out of reach.
        """
        from flowar.sharing.model_card import CardDetails, write_model_card

        repository, details = Repository(repo, revision, private, token), CardDetails(**card)
        with TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(folder, dtype)
            write_model_card(folder, self, repo, details)
            return repository.upload({path.name: path for path in folder.iterdir()}, commit_message)

    def to(self, device: torch.device | str) -> FlowARPipeline:
        """Move both to `device`, in place."""
        self.model.to(device)
        self.tokenizer.to(device)
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
        if preview is not None:
            from flowar.preview.scales import after_scales, at_evaluations

            on_scale = after_scales(self, preview, on_scale)
            if preview_steps:
                on_evaluation = at_evaluations(self, preview, on_evaluation)
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
        if self._may_prepack and self._gains_by_prepacking(options.get("dtype"), options.get("naive", False)):
            self.model.prepack()
        return self.model.sample(self._labels(class_labels), noise=noise, pins=pins, **options)

    def decode(self, latents: Tensor) -> list[Image]:
        """Pictures of normalised latents [B, c, h, w], as many at once as memory allows."""
        parts = latents.to(self.decode_dtype).split(self.tokenizer.images_at_once(latents))
        return [image for part in parts for image in to_pil(self._decode(part))]

    def _labels(self, classes: Tensor | Sequence[int | str] | int | str) -> Tensor | Sequence[int] | int:
        """`classes` with every name replaced by its label."""
        given = [classes] if isinstance(classes, str) else classes
        if isinstance(given, Sequence) and any(isinstance(each, str) for each in given):
            return resolve(given, class_names_of(self.model.config))
        return given  # type: ignore[return-value]

    def _gains_by_prepacking(self, dtype: torch.dtype | str | None, naive: bool) -> bool:
        parameter = self.model.ar_transformer.input_positions
        if naive or self.model.training or parameter.device.type != "cpu":
            return False
        return self.model.precision(dtype).dtype == parameter.dtype

    def _decoder_weights(self) -> list[Tensor]:
        return [*self.tokenizer.parameters(), *self.tokenizer.buffers()]
