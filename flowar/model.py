"""FlowAR: class labels to latents, coarse to fine.

class label ─┐
latents of scale k-1 ──upsample──> AR transformer ──> conditions z_k
noise ──ODE over t: 1 -> 0, velocity = flow transformer(x_t, t, z_k)──> latents of scale k
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from flowar.config import FlowARConfig, require
from flowar.engine.onednn_linear import prepack, unpack, unpacked
from flowar.engine.plan import InferencePlan, Plans
from flowar.networks.ar_transformer import ARTransformer
from flowar.networks.flow_transformer import FlowTransformer, over_tokens
from flowar.networks.initialization import initialize
from flowar.networks.latent_pyramid import LatentPyramid
from flowar.sampling.callbacks import Callbacks, OnEvaluation, OnScale
from flowar.sampling.noise import image_seeds, scale_noise
from flowar.sampling.pins import Pins, check_pins
from flowar.sampling.presets import named_schedule
from flowar.sampling.schedule import Schedule
from flowar.storage.checkpoint import PretrainedModel
from flowar.system.precision import Precision, resolve_precision
from flowar.system.progress import step_progress
from flowar.system.transfer import to_device

Checkpointing = Literal["none", "flow", "all"]


class Loss(NamedTuple):
    """The training loss (scalar), and the mean squared velocity error by scale [K], by image and scale [B, K]."""

    loss: Tensor
    per_scale: Tensor
    per_image: Tensor

    @staticmethod
    def of(per_image: Tensor, lengths: Sequence[int], scale_exponent: float = 1.0) -> Loss:
        """From the errors by image and scale [B, K].

        Every scale counts as (n_k / n_last) ** scale_exponent; the exponent is 1 in the paper (section 3.4).
        """
        per_scale = per_image.mean(0)
        weights = torch.tensor([(length / lengths[-1]) ** scale_exponent for length in lengths])
        weights = weights.to(per_scale.device, non_blocking=True)
        return Loss((per_scale * weights).sum(), per_scale, per_image)


class FlowAR(PretrainedModel):
    """Scale-wise autoregression with flow matching (arXiv 2412.15205).

    Shapes: B images, K scales of n_k tokens, S tokens in all, c latent channels, D the AR width.
    """

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__(config)
        self.pyramid = LatentPyramid(config)
        self.ar_transformer = ARTransformer(config)
        self.flow_transformer = FlowTransformer(config)
        initialize(self)
        self._plans = Plans()

    def prepack(self) -> FlowAR:
        """Bring the matrices into the layout that a CPU multiplies fastest, in place: for sampling, not for training.

        Sampling packs copies of the matrices; after this it needs none, since they are kept in no other form, and so
        they are no parameters any more. What is sampled stays the same, as do `state_dict` and saved files. `train()`,
        another device or dtype and `load_state_dict` undo it.

        Raises:
            ValueError: for a model that is not on the CPU.
        """
        device = self.ar_transformer.input_positions.device
        if device.type != "cpu":
            raise ValueError(f"prepack: expected a model on the CPU, got {device}")
        return prepack(self)

    def unpack(self) -> FlowAR:
        """Undo `prepack`, in place; the weights are new parameters."""
        return unpack(self)

    def train(self, mode: bool = True) -> FlowAR:
        """As of any module; training mode undoes `prepack`."""
        if mode:
            self.unpack()
        return super().train(mode)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """As of any module; undoes `prepack`."""
        return super(FlowAR, self.unpack()).load_state_dict(*arguments, **options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FlowAR:
        return super(FlowAR, self.unpack())._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def forward(self, *arguments: Any, **options: Any) -> Loss:
        """`loss`: what torch's wrappers for training call."""
        return self.loss(*arguments, **options)

    @property
    def checkpointing(self) -> Checkpointing:
        """Whose blocks compute their activations again in backward, which takes less memory: in training mode alone.

        "none", "flow" (the flow transformer's) or "all" (the AR transformer's too). Numbers stay the same bit for bit.
        """
        if self.ar_transformer.checkpoint_blocks:
            return "all"
        return "flow" if self.flow_transformer.checkpoint_blocks else "none"

    @checkpointing.setter
    def checkpointing(self, which: Checkpointing) -> None:
        require("checkpointing", " or ".join(get_args(Checkpointing)), which, which in get_args(Checkpointing))
        self.flow_transformer.checkpoint_blocks = which != "none"
        self.ar_transformer.checkpoint_blocks = which == "all"

    def conditions(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        """Teacher-forced conditions z [B, S, D] from latents [B, c, h, w] and class_labels [B] (null class allowed)."""
        _, inputs = self.pyramid(self.check_latents(latents))
        return self.ar_transformer(inputs, self.check_labels(class_labels, null_class=True))

    def velocity(self, x_t: Tensor, t: Tensor, z_k: Tensor) -> Tensor:
        """Velocity [B, n, c] of one scale at x_t [B, n, c], times t [B], conditions z_k [B, n, D].

        The scale is the one that has n tokens.

        Raises:
            ValueError: if no scale has n tokens, or the shapes do not fit together.
        """
        lengths = self.config.scale_lengths
        if x_t.dim() != 3 or x_t.shape[1] not in lengths:
            raise ValueError(f"x_t: expected [B, n, c] with n one of {lengths}, got {list(x_t.shape)}")
        check_shape("x_t", x_t, (x_t.shape[0], x_t.shape[1], self.config.latent_channels))
        check_shape("t", t, x_t.shape[:1])
        check_shape("z_k", z_k, (*x_t.shape[:2], self.config.ar_width))
        return self.flow_transformer(x_t, t[:, None], z_k, [lengths.index(x_t.shape[1])])

    def loss(
        self,
        latents: Tensor,
        class_labels: Tensor,
        noise: Tensor | None = None,
        times: Tensor | None = None,
        dropped: Tensor | None = None,
        context_noise: Tensor | None = None,
        scale_exponent: float = 1.0,
    ) -> Loss:
        """Flow-matching loss over all scales, each weighted by (n_k / n_last) ** scale_exponent.

        Args:
            latents: [B, c, h, w], normalised by the tokenizer.
            class_labels: [B].
            noise: [B, S, c]; drawn if left out.
            times: [K, B] in [0, 1], one per scale and image; drawn if left out.
            dropped: bool [B], whose labels become the null class. If left out: none in eval mode, in training mode each
                with probability `class_dropout`.
            context_noise: [B, S - n_last, c], added to the tokens of every scale but the last before they are upsampled
                for the AR transformer; the targets stay. None if left out.
            scale_exponent: 1 in the paper (section 3.4).

        Raises:
            ValueError: for latents, labels, noise, times, dropped or context_noise that do not fit.
        """
        targets, inputs = self.pyramid(self.check_latents(latents))  # [B, S, c], [B, S-1, c]
        if context_noise is not None:
            coarser = self.config.tokens - self.config.scale_lengths[-1]
            check_shape("context_noise", context_noise, (len(latents), coarser, targets.shape[2]))
            inputs = inputs + self.pyramid.upsample_each(context_noise)  # upsampling is linear
        noise = torch.randn_like(targets) if noise is None else noise
        times = torch.rand(len(self.config.grids), len(latents), device=latents.device) if times is None else times
        check_shape("noise", noise, targets.shape)
        check_shape("times", times, (len(self.config.grids), len(latents)))
        labels = self.check_labels(class_labels, null_class=True)
        dropped = self.draw_dropped(labels) if dropped is None else dropped
        check_shape("dropped", dropped, labels.shape)
        z = self.ar_transformer(inputs, labels.masked_fill(dropped, self.config.null_class))  # [B, S, D]

        lengths = self.config.scale_lengths
        t = over_tokens(times.T[..., None], lengths)  # [B, S, 1]
        x_t = (1 - t) * targets + t * noise
        velocity = self.flow_transformer(x_t, times.T, z, range(len(lengths)))

        squared = (velocity.float() - (noise - targets)).square().mean(2)  # [B, S]
        parts = squared.split(list(lengths), 1)
        return Loss.of(torch.stack([part.mean(1) for part in parts], 1), lengths, scale_exponent)

    def sample(
        self,
        class_labels: Tensor | Sequence[int] | int,
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
    ) -> Tensor:
        """Generate latents [B, c, h, w], float32 (float64 if the networks run in float64).

        Args:
            class_labels: [B], or one label for one image.
            num_inference_steps, guidance_scale, guidance_interval: the model's own preset if left out.
            schedule: instead of the model's own; or the name of a preset (`flowar.sampling.presets`), or of a file.
            seed: one for the batch, or one per image.
            noise: list over scales of [B, n_k, c] instead of a seed.
            naive: run the published algorithm without any saving.
            dtype: of the networks, as a torch dtype or by name: float32, tf32, bfloat16, float16, fp8, float64. The
                state is at least float32. Default ("auto"): bfloat16 for float32 parameters on hardware that has it,
                otherwise the parameters' own.
            progress: show a bar; by default only on a terminal.
            on_scale: called with (k, latents of scale k as tokens [B, n_k, c]) after every scale.
            on_evaluation: called with (k, i, tokens [B, n_k, c]) at evaluation i of scale k: the latents that its
                velocity points at. Sampling then goes without CUDA graphs, and all images at once.
            pins: latents to arrive at in some places.

        Raises:
            ValueError: for labels, schedule, seeds, noise or pins that do not fit, saying what was expected and came.
        """
        labels = self.check_labels(class_labels)
        schedule = self.schedule(num_inference_steps, guidance_scale, guidance_interval, schedule)
        precision = self.precision(dtype)
        scales, state_dtype = len(self.config.grids), torch.promote_types(precision.dtype, torch.float32)
        given = None if noise is None else [part.to(state_dtype) for part in self.check_noise(noise, labels)]
        if pins is not None:
            lengths, channels = self.config.scale_lengths, self.config.latent_channels
            pins = check_pins(pins, len(labels), lengths, channels).to(labels.device, state_dtype)
        with step_progress(schedule.num_evaluations(scales), progress) as on_step:
            callbacks = Callbacks(on_step, on_scale, on_evaluation)
            if naive:
                from flowar.naive import sample_naive

                start = given or self._seeded_noise(seed, labels, state_dtype)
                tokens = sample_naive(unpacked(self), labels, schedule, start, precision, callbacks, pins)
            else:
                seeds_or_noise = given or to_device(image_seeds(seed, len(labels)), labels.device)
                tokens = self._plan(precision).sample(labels, schedule, seeds_or_noise, callbacks, pins)
        return self.pyramid.to_grid(tokens, scales - 1).clone(memory_format=torch.contiguous_format)

    def precision(self, dtype: torch.dtype | str | None = None) -> Precision:
        """The precision that `sample` runs in with this `dtype`, on the model's device.

        Raises:
            ValueError: as of `sample`.
        """
        parameter = self.ar_transformer.input_positions
        return resolve_precision(dtype, parameter.device, parameter.dtype)

    def schedule(
        self,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        base: Schedule | str | None = None,
    ) -> Schedule:
        """The model's own sampling preset, or `base`, a schedule or the name of one, with parts replaced.

        Raises:
            ValueError: for `num_inference_steps` beside a base, or what no schedule of this model can have.
        """
        config, scales = self.config, len(self.config.grids)
        if base is None and num_inference_steps is None:
            base = config.schedule
        if base is None:
            steps = config.num_inference_steps if num_inference_steps is None else num_inference_steps
            base = Schedule.published(steps, config.guidance_scale, config.guidance_interval)
        elif num_inference_steps is not None:
            raise ValueError(f"num_inference_steps: expected none beside a schedule, got {num_inference_steps}")
        elif isinstance(base, str):
            base = named_schedule(base, scales, config.guidance_scale, config.guidance_interval)
        replaced = {"guidance_scale": guidance_scale, "guidance_interval": guidance_interval}
        replaced = {name: value for name, value in replaced.items() if value is not None}
        return dataclasses.replace(base, **replaced).check_scales(scales)  # type: ignore[arg-type]

    def check_labels(self, class_labels: Tensor | Sequence[int] | int, null_class: bool = False) -> Tensor:
        """Labels as int64 [B] on the model's device.

        Labels that lie on a GPU with the model are checked there, so that nobody waits for it: one out of range then
        ends the process's use of that GPU with a device-side assertion, as an index out of range does. Inside
        `torch.compile` values are not read, which would break the graph: labels out of range then raise what the
        embedding raises.

        Raises:
            ValueError: unless they are integers in [0, num_classes), at least one of them; `null_class` allows
                num_classes too.
        """
        device = self.ar_transformer.input_positions.device
        last = self.config.num_classes - (0 if null_class else 1)
        expected = f"integers from 0 to {last}"
        try:
            labels = torch.atleast_1d(torch.as_tensor(class_labels))
        except (TypeError, ValueError, RuntimeError) as error:  # what torch raises for words, None or ragged lists
            raise ValueError(f"class_labels: expected {expected}, got {class_labels!r}") from error
        if labels.numel() == 0 or labels.dim() != 1:
            raise ValueError(f"class_labels: expected [B] with B >= 1, got shape {list(labels.shape)}")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"class_labels: expected {expected}, got dtype {labels.dtype}")
        labels = labels.to(torch.int64)
        if labels.device.type != "cpu":
            labels = labels.to(device)
        if labels.device.type == "cuda":
            torch._assert_async(((labels >= 0) & (labels <= last)).all(), f"class_labels: expected {expected}")
        elif not torch.compiler.is_compiling():
            low, high = labels.min().item(), labels.max().item()  # before they go to a GPU, which this would wait for
            if low < 0 or high > last:
                raise ValueError(f"class_labels: expected {expected}, got {low if low < 0 else high}")
        return to_device(labels, device)

    def check_latents(self, latents: Tensor) -> Tensor:
        """`latents` as they are.

        Raises:
            ValueError: unless they are [B, c, h, w] with this model's c, h and w.
        """
        check_shape("latents", latents, (*latents.shape[:1], self.config.latent_channels, *self.config.grid))
        return latents

    def draw_dropped(self, class_labels: Tensor) -> Tensor:
        """Which labels [B] to replace by the null class: while training a share `class_dropout`, otherwise none."""
        if not self.training or self.config.class_dropout == 0:
            return torch.zeros_like(class_labels, dtype=torch.bool)
        return torch.rand(class_labels.shape, device=class_labels.device) < self.config.class_dropout

    def check_noise(self, noise: Sequence[Tensor], class_labels: Tensor) -> list[Tensor]:
        """Noise [B, n_k, c] of every scale, on the model's device.

        Raises:
            ValueError: unless there is one tensor a scale, of that shape.
        """
        expected = [[len(class_labels), n, self.config.latent_channels] for n in self.config.scale_lengths]
        shapes = [list(part.shape) for part in noise]
        if shapes != expected:
            raise ValueError(f"noise: expected tensors of shapes {expected}, got {shapes}")
        return [to_device(part, class_labels.device) for part in noise]

    def _seeded_noise(self, seed: int | Sequence[int], class_labels: Tensor, dtype: torch.dtype) -> list[Tensor]:
        lengths, channels = self.config.scale_lengths, self.config.latent_channels
        noise = scale_noise(seed, len(class_labels), lengths, channels, class_labels.device)
        return [part.to(dtype) for part in noise]

    def _plan(self, precision: Precision) -> InferencePlan:
        return self._plans.plan(self.ar_transformer, self.flow_transformer, self.pyramid, self.config, precision)


def check_shape(name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    if list(tensor.shape) != list(expected):
        raise ValueError(f"{name}: expected shape {list(expected)}, got {list(tensor.shape)}")
