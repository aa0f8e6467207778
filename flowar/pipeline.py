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
from flowar.storage.hub import Repository, locate
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import check_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowar.preview.scales import Preview


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
        *schedule: Any,
        preview: Preview | None = None,
        preview_steps: bool = False,
        **sampling: Any,
    ) -> PipelineOutput:
        """Generate one picture per label.

        Args:
            class_labels: [B] labels or class names (see `flowar.data.class_names.resolve`), or one of them for one
                image.
            schedule, sampling: those of `FlowAR.sample`.
            preview: called with (k, pictures) after every scale: its latents, brought to the finest grid and decoded.
            preview_steps: call it at every evaluation too, with what the velocity points at; see `FlowAR.sample`'s
                `on_evaluation` for what that costs.

        Raises:
            ValueError: as `FlowAR.sample`, and for a name of no class or of several, with the closest ones.
        """
        if preview is not None:
            from flowar.preview.scales import after_scales, at_evaluations

            sampling["on_scale"] = after_scales(self, preview, sampling.get("on_scale"))
            if preview_steps:
                sampling["on_evaluation"] = at_evaluations(self, preview, sampling.get("on_evaluation"))
        latents = self.sample(class_labels, *schedule, **sampling)
        return PipelineOutput(self.decode(latents), latents)

    def sample(self, class_labels: Tensor | Sequence[int | str] | int | str, *schedule: Any, **sampling: Any) -> Tensor:
        """Latents [B, c, h, w] alone: `FlowAR.sample`, with class names too.

        Raises:
            ValueError: as calling the pipeline does.
        """
        return self.model.sample(self._labels(class_labels), *schedule, **sampling)

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

    def _decode_eagerly(self, latents: Tensor) -> Tensor:
        """Images of latents in the dtype to decode in, so that a graph of one dtype is not taken for another."""
        return self.tokenizer.decode(latents.float(), latents.dtype)

    def _decoder_weights(self) -> list[Tensor]:
        return [*self.tokenizer.parameters(), *self.tokenizer.buffers()]
