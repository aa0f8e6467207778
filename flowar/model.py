"""FlowAR: class labels to latents, coarse to fine.

class label ─┐
latents of scale k-1 ──upsample──> AR transformer ──> conditions z_k
noise ──ODE over t: 1 -> 0, velocity = flow transformer(x_t, t, z_k)──> latents of scale k
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from flowar import ops
from flowar.config import Checkpointing, FlowARConfig, require
from flowar.engine.onednn_linear import prepack, unpack, unpacked
from flowar.engine.plan import InferencePlan, Plans
from flowar.networks.ar_transformer import ARTransformer
from flowar.networks.arguments import check_labels, check_optional_labels, matching_scale, without_class
from flowar.networks.attention_backends import use_attention_backend
from flowar.networks.flow_transformer import FlowTransformer, over_tokens
from flowar.networks.initialization import initialize
from flowar.networks.latent_pyramid import LatentPyramid
from flowar.sampling.callbacks import Callbacks, OnEvaluation, OnScale, OnStepEnd
from flowar.sampling.noise import check_noise, image_seeds, scale_noise
from flowar.sampling.pins import Pins, check_pins, pin
from flowar.sampling.schedule import Schedule
from flowar.sampling.solvers import integrate
from flowar.storage.checkpoint import PretrainedModel
from flowar.system.arguments import check_function, check_number, check_type, known_arguments
from flowar.system.precision import Precision, matmul_precision, resolve_precision
from flowar.system.progress import step_progress
from flowar.system.tensors import check_tensor
from flowar.system.transfer import to_device

__all__ = ["Checkpointing", "FlowAR", "Loss"]


class Loss(NamedTuple):
    """The training loss (scalar), and the mean squared velocity error by scale [K], by image and scale [B, K]."""

    loss: Tensor
    per_scale: Tensor
    per_image: Tensor

    @staticmethod
    def of(velocity: Tensor, target: Tensor, lengths: Sequence[int], scale_exponent: float = 1.0) -> Loss:
        """The loss of a velocity [B, S, c] that is to be `target`, of scales of these lengths.

        Every scale counts as (n_k / n_last) ** scale_exponent; the exponent is 1 in the paper (section 3.4).
        """
        squared = (velocity.float() - target).square().mean(2)  # [B, S]
        return Loss.from_errors(
            torch.stack([part.mean(1) for part in squared.split(list(lengths), 1)], 1), lengths, scale_exponent
        )

    @staticmethod
    def from_errors(per_image: Tensor, lengths: Sequence[int], scale_exponent: float = 1.0) -> Loss:
        """The loss of these errors by image and scale [B, K]."""
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
        """Set training or evaluation mode, as any module does; training mode undoes `prepack`."""
        if mode:
            self.unpack()
        return super().train(mode)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load weights, as any module does; this undoes `prepack`."""
        return super(FlowAR, self.unpack()).load_state_dict(*arguments, **options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FlowAR:
        device = self._parameter.device
        super(FlowAR, self.unpack())._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._parameter.device != device:
            self._plans.clear()  # whose packed weights are where the model was
        return self

    def forward(self, *arguments: Any, **options: Any) -> Loss:
        """Compute `loss`; this is what torch's wrappers for training call."""
        return self.loss(*arguments, **options)

    @property
    def checkpointing(self) -> Checkpointing:
        """The blocks that compute their activations again in backward, in training mode, which takes less memory.

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

    def conditions(self, latents: Tensor, class_labels: Tensor, context_noise: Tensor | None = None) -> Tensor:
        """Teacher-forced conditions z [B, S, D] from latents [B, c, h, w] and class_labels [B] (null class allowed).

        context_noise: [B, S - n_last, c], added to the tokens of every scale but the last before they are upsampled for
            the AR transformer.

        Raises:
            ValueError: for latents, labels or noise that do not fit the model or each other.
        """
        labels = self._labels_of(latents, class_labels)
        _, inputs = self.pyramid(latents)
        return self._conditions(inputs, labels, context_noise)

    def _conditions(self, inputs: Tensor, labels: Tensor, context_noise: Tensor | None) -> Tensor:
        if context_noise is not None:
            coarser = self.config.tokens - self.config.scale_lengths[-1]
            shape = (len(labels), coarser, self.config.latent_channels)
            check_tensor("context_noise", context_noise, shape, self._parameter)
            inputs = inputs + self.pyramid.upsample_each(context_noise)  # upsampling is linear
        return self.ar_transformer(inputs, labels)

    def velocity(self, x_t: Tensor, t: Tensor, z_k: Tensor, r: Tensor | None = None) -> Tensor:
        """Velocity [B, n, c] of one scale at x_t [B, n, c], times t [B], conditions z_k [B, n, D].

        The scale is the one that has n tokens. Of a distilled model it is the mean velocity from t to times r [B],
        which are t if left out; others make no use of r.

        Raises:
            ValueError: if no scale has n tokens, or for shapes, dtypes or devices that do not fit together.
        """
        widths = (self.config.latent_channels, self.config.ar_width)
        scale = matching_scale(x_t, t, z_k, self.config.scale_lengths, widths, self._parameter)
        if r is None:
            return self.flow_transformer(x_t, t[:, None], z_k, [scale])
        check_tensor("r", r, t.shape, self._parameter)
        return self.flow_transformer(x_t, t[:, None], z_k, [scale], r[:, None])

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
        labels, like = self._labels_of(latents, class_labels), self._parameter
        check_number("scale_exponent", scale_exponent)
        targets, inputs = self.pyramid(latents)  # [B, S, c], [B, S-1, c]
        noise = torch.randn_like(targets) if noise is None else noise
        times = torch.rand(len(self.config.grids), len(latents), device=latents.device) if times is None else times
        check_tensor("noise", noise, targets.shape, like)
        check_tensor("times", times, (len(self.config.grids), len(latents)), like)
        dropped = self.draw_dropped(labels) if dropped is None else dropped
        check_tensor("dropped", dropped, labels.shape, like, floating=False)
        z = self._conditions(inputs, labels.masked_fill(dropped, self.config.null_class), context_noise)  # [B, S, D]

        lengths = self.config.scale_lengths
        t = over_tokens(times.T[..., None], lengths)  # [B, S, 1]
        x_t = (1 - t) * targets + t * noise
        velocity = self.flow_transformer(x_t, times.T, z, range(len(lengths)))

        return Loss.of(velocity, noise - targets, lengths, scale_exponent)

    @known_arguments
    def sample(
        self,
        class_labels: Tensor | Sequence[int | None] | int | None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        *,
        schedule: Schedule | str | None = None,
        seed: int | Sequence[int] = 0,
        noise: Sequence[Tensor] | None = None,
        naive: bool = False,
        dtype: torch.dtype | str | None = None,
        progress: bool | Mapping[str, Any] | None = None,
        on_scale: OnScale | None = None,
        on_evaluation: OnEvaluation | None = None,
        on_step_end: OnStepEnd | None = None,
        pins: Pins | None = None,
    ) -> Tensor:
        """Generate latents [B, c, h, w], float32 (float64 if the networks run in float64).

        Args:
            class_labels: [B], or one label for one image; None, for all or in a list, draws without a class.
            num_inference_steps, guidance_scale, guidance_interval: the model's own preset if left out. A guidance scale
                of 0 draws without a class, too.
            schedule: instead of the model's own; or the name of a preset (`flowar.sampling.presets`), or of a file.
            seed: one for the batch, or one per image.
            noise: list over scales of [B, n_k, c] instead of a seed.
            naive: run the published algorithm without any saving.
            dtype: of the networks, as a torch dtype or by name: float32, tf32, bfloat16, float16, fp8, float64. The
                state is at least float32. Default ("auto"): bfloat16 for float32 parameters on hardware that has it,
                otherwise the parameters' own.
            progress: show a bar; by default only on a terminal. Or the options of tqdm for it.
            on_scale: called with (k, latents of scale k as tokens [B, n_k, c]) after every scale.
            on_evaluation: called with (k, i, tokens [B, n_k, c]) at evaluation i of scale k: the latents that its
                velocity points at. Sampling then goes without CUDA graphs, and all images at once.
            on_step_end: called with (k, i, state [B, n_k, c]) after evaluation i of scale k, which has led there; it
                may change the state in place. It costs what `on_evaluation` does.
            pins: latents to arrive at in some places.

        Raises:
            ValueError: for labels, schedule, seeds, noise or pins that do not fit, saying what was expected and came.
        """
        last, null_class = self.config.num_classes - 1, self.config.null_class
        labels = check_optional_labels(class_labels, last, self._parameter.device, null_class)
        check_type("naive", naive, bool, "true or false")
        check_type("progress", progress, (bool, Mapping, type(None)), "true, false, None or options of tqdm")
        check_function("on_scale", on_scale)
        check_function("on_evaluation", on_evaluation)
        check_function("on_step_end", on_step_end)
        schedule = self.schedule(num_inference_steps, guidance_scale, guidance_interval, schedule)
        if without_class(class_labels) or schedule.guidance_scale == 0:  # both halves of guidance would be the same
            labels, schedule = torch.full_like(labels, null_class), replace(schedule, guidance_scale=1.0)
        precision = self.precision(dtype)
        state_dtype = torch.promote_types(precision.dtype, torch.float32)
        images = len(labels), self.config.scale_lengths, self.config.latent_channels
        if noise is not None:
            noise = [to_device(part, labels.device, state_dtype) for part in check_noise(noise, *images)]
        if pins is not None:
            pins = check_pins(pins, *images).to(labels.device, state_dtype)
        scales = len(self.config.grids)
        with step_progress(schedule.num_evaluations(scales), progress) as on_step:
            callbacks = Callbacks(on_step, on_scale, on_evaluation, on_step_end)
            if naive:
                noise = noise or [part.to(state_dtype) for part in scale_noise(seed, *images, labels.device)]
                with published_arithmetic(precision, labels.device):
                    tokens = unpacked(self)._sample_published(labels, schedule, noise, precision.dtype, callbacks, pins)
            else:
                seeds_or_noise = noise or to_device(image_seeds(seed, len(labels)), labels.device)
                tokens = self._plan(precision).sample(labels, schedule, seeds_or_noise, callbacks, pins)
        return self.pyramid.to_grid(tokens, scales - 1).clone(memory_format=torch.contiguous_format)

    @torch.inference_mode()
    def _sample_published(
        self,
        class_labels: Tensor,
        schedule: Schedule,
        noise: Sequence[Tensor],
        dtype: torch.dtype,
        callbacks: Callbacks,
        pins: Pins | None,
    ) -> Tensor:
        """The published algorithm, without any saving: tokens of the last scale [B, n, c].

        Both halves of guidance are computed at every step of every scale, and whatever depends on the class, the time
        or the conditions alone is computed each time it is needed. `sample` has checked the arguments.
        """
        ar, flow, scales = self.ar_transformer, self.flow_transformer, len(noise)
        null_class = torch.full_like(class_labels, self.config.num_classes)  # [B]
        labels = torch.cat((class_labels, null_class))  # [2B], the two halves of guidance
        cache = ar.new_cache(len(labels), dtype)  # keys and values, each [L_ar, 2B, S, H, d]
        latents: list[Tensor] = []  # [B, n_k, c] of every scale so far

        def velocity(k: int, x: Tensor, z: Tensor, i: int) -> Tensor:
            callbacks.on_step()
            t, *r = (x.new_full((len(z), 1), each) for each in schedule.evaluations(k, scales)[i].times)  # [2B, 1]
            return flow(x.repeat(2, 1, 1), t, z, [k], *r)  # [2B, n_k, c]

        for k, start in enumerate(noise):  # [B, n_k, c]
            inputs = self.pyramid.upsample(latents[-1], k).repeat(2, 1, 1) if latents else None  # [2B, n_k, c]
            z = ar.step(inputs, labels, ar.modulations(labels), cache)  # [2B, n_k, D]
            x = start.clone()  # [B, n_k, c]
            evaluations, weights = schedule.evaluations(k, scales), schedule.guidance_weights(k, scales)
            pinned = None if pins is None else partial(pin, x, start, pins.tokens[k], pins.masks[k])
            constrain = callbacks.after_steps(k, x, pinned)
            watch = callbacks.on_evaluation and partial(callbacks.on_evaluation, k)
            integrate(partial(velocity, k, x, z), x, evaluations, weights, constrain=constrain, on_evaluation=watch)
            latents.append(x)  # [B, n_k, c]
            if callbacks.on_scale is not None:
                callbacks.on_scale(k, x)
        return latents[-1]  # [B, n_K, c]

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
        check_type("schedule", base, (Schedule, str, type(None)), "a schedule or the name of one")
        return self.config.make_schedule(num_inference_steps, guidance_scale, guidance_interval, base)

    def check_labels(self, class_labels: Tensor | Sequence[int] | int, null_class: bool = False) -> Tensor:
        """Labels as int64 [B] on the model's device, see `flowar.networks.arguments.check_labels`.

        Raises:
            ValueError: unless they are integers in [0, num_classes), at least one of them; `null_class` allows
                num_classes too.
        """
        last = self.config.num_classes - (0 if null_class else 1)
        return check_labels(class_labels, last, self.ar_transformer.input_positions.device)

    @property
    def _parameter(self) -> Tensor:
        """A parameter, whose device and dtype those of inputs have to be."""
        return self.ar_transformer.input_positions

    def _labels_of(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        """The labels [B] of latents [B, c, h, w], the null class among them, when both are checked."""
        config = self.config
        check_tensor("latents", latents, ("B", config.latent_channels, *config.grid), self._parameter)
        labels = self.check_labels(class_labels, null_class=True)
        require("class_labels", f"{len(latents)}, one per image", len(labels), len(labels) == len(latents))
        return labels

    def draw_dropped(self, class_labels: Tensor) -> Tensor:
        """Draw which labels [B] the null class replaces: a share `class_dropout` in training mode, otherwise none."""
        if not self.training or self.config.class_dropout == 0:
            return torch.zeros_like(class_labels, dtype=torch.bool)
        return torch.rand(class_labels.shape, device=class_labels.device) < self.config.class_dropout

    def _plan(self, precision: Precision) -> InferencePlan:
        return self._plans.plan(self.ar_transformer, self.flow_transformer, self.pyramid, self.config, precision)


@contextmanager
def published_arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute as the authors' code does in this context: in plain PyTorch, in low precision under autocast.

    Raises:
        ValueError: for fp8, which the published algorithm does not know.
    """
    if precision.matmul == "fp8":
        raise ValueError("dtype: fp8 expects naive=False, got naive=True")
    low = precision.dtype in (torch.bfloat16, torch.float16)
    autocast = torch.autocast(device.type, precision.dtype, enabled=low)
    with ops.use_reference(), use_attention_backend("sdpa"), matmul_precision(precision), autocast:
        yield
