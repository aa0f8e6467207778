"""From class labels to pictures, called as diffusers' pipelines are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from flowar.data.class_names import class_names_of, labels_by_name, resolve
from flowar.errors import FlowARError
from flowar.pipeline.labels import ClassLabels, labels_of, names_of, repeat_each
from flowar.pipeline.offload import at_work
from flowar.pipeline.options import Preview
from flowar.pipeline.output import CONVERSIONS, OutputType, Pictures, PipelineOutput
from flowar.pipeline.pretrained import PretrainedPipeline
from flowar.pipeline.previews import previewing
from flowar.pipeline.seeds import Generators, image_seeds_of
from flowar.pipeline.step_end import TENSORS, StepCallback, after_steps, check_tensor_inputs
from flowar.sampling.noise import scale_noise
from flowar.sampling.schedule import check_name
from flowar.system.arguments import check_function, check_integer, check_names, check_type, known_arguments
from flowar.system.memory import check_memory
from flowar.system.tensors import check_tensor
from flowar.system.transfer import to_device

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Unpack

    from flowar.sampling.callbacks import OnEvaluation, OnScale, OnStepEnd
    from flowar.sampling.options import SamplingOptions
    from flowar.sampling.pins import Pins
    from flowar.sampling.schedule import Schedule


class FlowARPipeline(PretrainedPipeline):
    """Class labels to pictures: a model with the tokenizer that it was trained on.

    Attributes:
        model, tokenizer: the two.
        decode_dtype: what the tokenizer decodes in, see `Tokenizer.decode`; float32 unless set.
        name_or_path: what `from_pretrained` was given; None for a pipeline that was made of its parts.

    Raises:
        FlowARError: if they do not belong together, naming both sides.
    """

    @known_arguments
    def __call__(
        self,
        class_labels: ClassLabels = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        *,
        schedule: Schedule | str | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_images_per_prompt: int = 1,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        latents: Tensor | None = None,
        noise: Sequence[Tensor] | None = None,
        naive: bool = False,
        dtype: torch.dtype | str | None = None,
        progress: bool | Mapping[str, Any] | None = None,
        on_scale: OnScale | None = None,
        on_evaluation: OnEvaluation | None = None,
        on_step_end: OnStepEnd | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = TENSORS,
        pins: Pins | None = None,
        preview: Preview | None = None,
        preview_steps: bool = False,
    ) -> PipelineOutput:
        """Draw pictures of classes.

        Args:
            class_labels: [B] labels or class names (see `flowar.data.class_names.resolve`), or one of them for one
                image. None, for all or in a list, draws without a class.
            num_inference_steps, guidance_scale, guidance_interval, schedule: when the ODE of each scale is evaluated,
                and guidance; the model's own preset if left out. This, and all that is not explained here, is explained
                at `FlowAR.sample`.
            seed: one for the batch, or one per image. If left out, a fresh one per image, drawn from torch's own
                generator, which `torch.manual_seed` sets; the output has it.
            generator: instead of a seed: a generator, from which a seed per image is drawn, one after the other, or a
                list of one generator per image.
            num_images_per_prompt: pictures of every label, side by side; seeds, noise and pins are for all of them.
            output_type: "pil", "np", "pt" or "latent", see `PipelineOutput`.
            return_dict: False gives the pictures alone, in a tuple of one.
            latents: what the last scale starts from, [B, c, h, w], standard normal. The scales before it have noise
                from the seed, which is 0 if left out.
            noise: what every scale starts from, instead of seeds: a list over scales of [B, n_k, c].
            naive: run the published algorithm without any saving.
            dtype: what the networks compute in.
            progress: show a bar, as `set_progress_bar_config` says; by default only on a terminal.
            on_scale, on_evaluation, on_step_end: functions that are called with latents on the way.
            callback_on_step_end: called with (pipeline, i, t, {"latents": [B, c, h_k, w_k]}) after evaluation i,
                counted over all scales, at time t, which goes from 1 (noise) to 0. The latents are the state of scale
                k, and those in a dict that it returns replace them. An exception in it ends the call.
            callback_on_step_end_tensor_inputs: ["latents"], or an empty list for a callback without them.
            pins: latents to arrive at in some places.
            preview: called with (k, pictures) after every scale: its latents, brought to the finest grid and decoded.
            preview_steps: call `preview` at every evaluation too, with what the velocity points at; see
                `on_evaluation` of `FlowAR.sample` for what that costs.

        Returns:
            The pictures, one per label in their order, with their latents and seeds.

        Raises:
            ValueError: as `FlowAR.sample`, and for a name of no class or of several, with the closest ones.
            UnknownArgumentError: for an argument that there is not, with the nearest.

        Example:
            ```python
            pipe = FlowARPipeline.from_pretrained("flowar-fashion")
            out = pipe(["Ankle boot", 3], guidance_scale=3.0)
            out.images[0].save("boot.png")
            again = pipe(["Ankle boot", 3], guidance_scale=3.0, seed=out.seeds)
            ```
        """
        check_name("output_type", output_type, (*CONVERSIONS, "latent"))
        check_type("return_dict", return_dict, bool, "true or false")
        wants_latents = check_tensor_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
        labels = labels_of(class_labels, self.model)
        times = check_integer("num_images_per_prompt", num_images_per_prompt)
        self.check_count("num_images_per_prompt", len(labels) * times)
        labels = repeat_each(labels, times)
        schedule = self.model.schedule(num_inference_steps, guidance_scale, guidance_interval, schedule)
        seeds = self._seeds(seed, generator, latents, noise, len(labels))
        if callback_on_step_end is not None:
            on_step_end = after_steps(self, callback_on_step_end, wants_latents, schedule, on_step_end)
        check_function("preview", preview)
        if preview is not None:
            on_scale = previewing(self.decode_tokens, preview, on_scale)
            if preview_steps:
                on_evaluation = previewing(self.decode_tokens, preview, on_evaluation)
        with at_work(self.model, self._offload):
            if latents is not None and seeds is not None:
                noise = self._noise(latents, seeds)
            drawn = self.model.sample(
                labels,
                schedule=schedule,
                seed=seeds or 0,
                noise=noise,
                naive=naive,
                dtype=dtype,
                progress=self._progress(progress),
                on_scale=on_scale,
                on_evaluation=on_evaluation,
                on_step_end=on_step_end,
                pins=pins,
            )
        images = drawn if output_type == "latent" else self.decode(drawn, output_type)
        if not return_dict:
            return (images,)  # type: ignore[return-value]  # as who says so expects
        if schedule.guidance_scale == 0:
            labels = [None] * len(labels)
        return PipelineOutput(images, drawn, seeds, names_of(labels, self.model))

    def sample(
        self,
        class_labels: ClassLabels,
        *,
        noise: Sequence[Tensor] | None = None,
        pins: Pins | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Tensor:
        """Latents [B, c, h, w] alone: `FlowAR.sample`, with class names too.

        As nothing tells what a fresh seed was, the seed is 0 if left out.

        Raises:
            ValueError: as calling the pipeline does.
        """
        with at_work(self.model, self._offload):
            return self.model.sample(labels_of(class_labels, self.model), noise=noise, pins=pins, **options)

    def decode(self, latents: Tensor, output_type: OutputType = "pil") -> Pictures:
        """Pictures of normalised latents [B, c, h, w], as many at once as memory allows.

        Args:
            latents: on the device of the tokenizer.
            output_type: "pil", "np" or "pt", see `PipelineOutput`.

        Raises:
            ValueError: for latents of another number of channels, or on another device, and another output type.
        """
        check_name("output_type", output_type, CONVERSIONS)
        convert, join = CONVERSIONS[output_type]
        with at_work(self.tokenizer, self._offload):
            at_once = self.tokenizer.images_at_once(latents)
            parts = latents.to(self.decode_dtype).split(at_once)
            pictures = join([convert(self._decode(part)) for part in parts])
        if self._offload is not None:
            self._decode.clear()
        return pictures

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
        pictures: list[Image] = self.decode(grid.contiguous())
        return pictures

    def check_count(self, name: str, count: int) -> None:
        """Check that so many pictures, drawn together, fit into the memory with the latents that they come from.

        Raises:
            FlowARError: if they do not, with the estimate; `name` is the option that asks for them.
        """
        config, (width, height) = self.config, self.picture_size
        latents = 2 * 4 * config.latent_channels * config.scale_lengths[-1]  # noise and state, float32
        check_memory(name, f"{count} pictures of {width}x{height}", count * (latents + height * width))

    @property
    def scheduler(self) -> Schedule:
        """The schedule of calls that name none, the model's own, to be read: another is the `schedule` of a call."""
        return self.model.schedule()

    @property
    def labels(self) -> dict[str, int]:
        """The labels of all names and synonyms that mean one class, in alphabetical order."""
        return labels_by_name(class_names_of(self.config))

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """The labels of class names, or of one name, in a list.

        Raises:
            FlowARError: for a name of no class or of several, with the closest ones.
        """
        return resolve([label] if isinstance(label, str) else label, class_names_of(self.config))

    def set_progress_bar_config(self, **options: Any) -> None:
        """Show progress bars as these options of `tqdm` say: `disable`, `desc`, `leave` and its others.

        With `disable=False` they show in files and notebooks too; by default on terminals alone.

        Raises:
            UnknownArgumentError: for an option that tqdm does not have.
        """
        from tqdm import tqdm

        check_names("set_progress_bar_config", options, [*inspect.signature(tqdm.__init__).parameters][1:])
        self._progress_bar = options

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

        check_names("push_to_hub", card, [field.name for field in fields(CardDetails)])
        repository, details = Repository(repo, revision, private, token), CardDetails(**card)
        return push_pipeline(self, repository, details, commit_message, dtype)

    def _progress(self, asked: bool | Mapping[str, Any] | None) -> bool | Mapping[str, Any] | None:
        """The options of the bar, with what a call asked for."""
        return {**self._progress_bar, "disable": not asked} if isinstance(asked, bool) else asked or self._progress_bar

    def _seeds(
        self,
        seed: int | Sequence[int] | None,
        generator: Generators | None,
        latents: Tensor | None,
        noise: Sequence[Tensor] | None,
        count: int,
    ) -> list[int] | None:
        """The seeds of `count` images, or None for those that start from given noise."""
        if noise is not None:
            for name, value in (("seed", seed), ("generator", generator), ("latents", latents)):
                if value is not None:
                    raise FlowARError(f"noise: expected it or {name}, got both")
            return None
        fixed = seed is None and generator is None and latents is not None
        return image_seeds_of(0 if fixed else seed, generator, count)

    def _noise(self, latents: Tensor, seeds: Sequence[int]) -> list[Tensor]:
        """The noise of every scale [B, n_k, c]: that of the seeds, and for the last scale latents [B, c, h, w]."""
        config, device = self.config, self.device
        check_tensor("latents", latents, (len(seeds), config.latent_channels, *config.grid))
        last = rearrange(latents, "b c h w -> b (h w) c")
        *before, drawn = scale_noise(seeds, len(seeds), config.scale_lengths, config.latent_channels, device)
        return [*before, to_device(last, drawn.device)]
