"""What a FlowAR is made of: one frozen dataclass, and the table of published sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

from flowar.sampling.jumps import check_jumps, jump_schedule
from flowar.sampling.presets import JUMP_SCHEDULES, SCHEDULES, named_schedule
from flowar.sampling.schedule import Schedule, check_name

__all__ = ["FlowARConfig"]

Grid = tuple[int, int]
IMAGENET_CLASSES = 1000
FlowBlockKind = Literal["attn_mlp", "attn_cross_mlp"]
UpsampleKind = Literal["published", "bilinear"]


@dataclass(frozen=True)
class FlowARConfig:
    """Architecture, latent space and default sampling settings of one model.

    Attributes:
        latent_channels: channels c of the tokenizer's latents.
        latent_size: finest grid, (height, width); one number means a square.
        scales: grids from coarse to fine, each a side length or a (height, width) pair; the first is 1x1, the last
            equals `latent_size`. Left out, the finest grid is halved (rounding up) down to 1x1.
        num_classes: classes; the embedding has one more row, the null class of guidance. If left out, ImageNet's 1000,
            or when a model is trained, those of its data.
        ar_width: D, of the autoregressive transformer.
        ar_depth: L_ar, blocks of the autoregressive transformer.
        ar_heads: H, attention heads of the autoregressive transformer.
        flow_width: W, of the flow transformer.
        flow_depth: L_f, blocks of the flow transformer.
        flow_heads: attention heads of the flow transformer; W / 64 if left out.
        flow_block: `attn_mlp` (paper, published S) or `attn_cross_mlp` (published L and H).
        qk_norm: RMS norm with a weight on every head's queries and keys, in both transformers: steadier training in
            bfloat16. No published model has it.
        upsample: how a scale becomes the next one's input: `published` (bicubic to the finest grid, then area) or
            `bilinear`.
        dropout: in the AR transformer's attention and projections, while training.
        class_dropout: share of labels replaced by the null class while training.
        num_inference_steps: steps that `sample` takes at every scale unless told otherwise.
        schedule: the preset (`flowar.sampling.presets`) that `sample` takes, unless told otherwise, instead of
            `num_inference_steps`.
        jumps: the most jumps a scale that the flow transformer has learned, a power of two (`flowar distill`): it is
            told where a jump arrives, and has the teacher's guidance inside, so that `guidance_scale` is 1. 0 for a
            model of velocities, as the published ones.
        guidance_scale: of `sample` unless told otherwise.
        guidance_interval: times at which guidance acts in `sample` unless told otherwise.
        tokenizer: record of the tokenizer the latents came from (`Tokenizer.record()`), or None if unknown.
        class_names: names of the classes, or empty.

    Raises:
        ValueError: for any value that no model can have, naming the field, what was expected and what came.
    """

    latent_channels: int = 16
    latent_size: int | Sequence[int] = (16, 16)
    scales: Sequence[int | Sequence[int]] | None = None
    num_classes: int = None  # type: ignore[assignment]  # that it was left out; from __post_init__ on it is an integer
    ar_width: int = 768
    ar_depth: int = 12
    ar_heads: int = 12
    flow_width: int = 1024
    flow_depth: int = 2
    flow_heads: int | None = None
    flow_block: FlowBlockKind = "attn_mlp"
    qk_norm: bool = False
    upsample: UpsampleKind = "published"
    dropout: float = 0.1
    class_dropout: float = 0.1
    num_inference_steps: int = 25
    schedule: str | None = None
    jumps: int = 0
    guidance_scale: float = 4.3
    guidance_interval: Sequence[float] = (0.0, 0.9)
    tokenizer: Mapping[str, Any] | None = None
    class_names: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        def set_field(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # the dataclass is frozen

        set_field("_classes_left_out", self.num_classes is None and not self.class_names)
        set_field("num_classes", IMAGENET_CLASSES if self.num_classes is None else self.num_classes)
        set_field("latent_size", as_grid("latent_size", self.latent_size))
        set_field("scales", as_scales(self.scales, self.grid))
        set_field("guidance_interval", as_tuple("guidance_interval", self.guidance_interval))
        set_field("class_names", as_tuple("class_names", self.class_names))
        if self.flow_heads is None and is_count(self.flow_width):
            set_field("flow_heads", max(1, self.flow_width // 64))
        self._validate()

    def _validate(self) -> None:
        for name in ("latent_channels", "num_classes", "ar_width", "ar_heads", "flow_width", "flow_depth"):
            require(name, "a positive integer", getattr(self, name), is_count(getattr(self, name)))
        even = is_count(self.ar_depth) and self.ar_depth % 2 == 0
        require("ar_depth", "a positive even integer", self.ar_depth, even)
        for width, heads in (("ar_width", "ar_heads"), ("flow_width", "flow_heads")):
            total, count = getattr(self, width), getattr(self, heads)
            # The 2-D rotary embedding rotates pairs of channels in each half of a head.
            ok = is_count(count) and total % (4 * count) == 0
            require(heads, f"a divisor of {width} / 4 = {total / 4:g}", count, ok)
        for name, kind in (("flow_block", FlowBlockKind), ("upsample", UpsampleKind)):
            value = getattr(self, name)
            require(name, " or ".join(get_args(kind)), value, value in get_args(kind))
        require("qk_norm", "true or false", repr(self.qk_norm), isinstance(self.qk_norm, bool))
        for name in ("dropout", "class_dropout"):
            value = getattr(self, name)
            require(name, "a number in [0, 1)", value, is_number(value) and 0 <= value < 1)
        named = len(self.class_names)
        require("class_names", f"{self.num_classes} names or none", f"{named} names", named in (0, self.num_classes))
        numbers = (self.guidance_scale, *self.guidance_interval)
        require("guidance_scale, guidance_interval", "numbers", numbers, all(map(is_number, numbers)))
        Schedule.published(self.num_inference_steps, self.guidance_scale, self.guidance_interval)
        if self.schedule is not None:
            check_name("schedule", self.schedule, SCHEDULES | JUMP_SCHEDULES)
        power = self.jumps == 0 or (is_count(self.jumps) and self.jumps.bit_count() == 1)
        require("jumps", "0 or a power of two", self.jumps, power)
        inside = not self.jumps or self.guidance_scale == 1
        require("guidance_scale", "1 for a model of jumps, which has it inside", self.guidance_scale, inside)
        channels = dict(self.tokenizer or {}).get("channels", self.latent_channels)
        fits = channels == self.latent_channels
        require("latent_channels", f"{channels}, as the tokenizer has", self.latent_channels, fits)

    @property
    def classes_left_out(self) -> bool:
        """Whether nothing was said of the classes, so that whoever knows them may say it."""
        return bool(vars(self)["_classes_left_out"])

    @property
    def grid(self) -> Grid:
        """Finest grid, (height, width)."""
        assert isinstance(self.latent_size, tuple)
        return self.latent_size[0], self.latent_size[1]

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Every scale's (height, width), coarse to fine."""
        assert isinstance(self.scales, tuple)
        return self.scales

    @property
    def scale_lengths(self) -> tuple[int, ...]:
        """Tokens n_k of every scale."""
        return tuple(height * width for height, width in self.grids)

    @property
    def tokens(self) -> int:
        """Tokens S of all scales together."""
        return sum(self.scale_lengths)

    @property
    def null_class(self) -> int:
        """The label without a class, for guidance: the last row of the embedding."""
        return self.num_classes

    @staticmethod
    def preset(name: str, **changes: Any) -> FlowARConfig:
        """The configuration called `name` ("S", "B", "L" or "H"), with fields changed by keyword.

        Raises:
            ValueError: for a name that is not in the table.
        """
        if not isinstance(name, str) or name.upper() not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {name!r}")
        return FlowARConfig(**(PRESETS[name.upper()] | changes))

    def make_schedule(
        self,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        base: Schedule | str | None = None,
    ) -> Schedule:
        """The model's own sampling preset, or `base`, a schedule or the name of one, with parts replaced.

        Raises:
            ValueError: for `num_inference_steps` beside a base, or what no schedule of this model can have, such as
                jumps that it has not learned, or guidance where it is inside.
        """
        if base is None and num_inference_steps is None:
            base = self.schedule
        if base is None:
            steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
            base = self._of_steps(steps)
        elif num_inference_steps is not None:
            raise ValueError(f"num_inference_steps: expected none beside a schedule, got {num_inference_steps}")
        elif isinstance(base, str):
            base = named_schedule(base, len(self.grids), self.guidance_scale, self.guidance_interval)
        replaced = {"guidance_scale": guidance_scale, "guidance_interval": guidance_interval}
        replaced = {name: value for name, value in replaced.items() if value is not None}
        scales = len(self.grids)
        schedule = dataclasses.replace(base, **replaced).check_scales(scales)  # type: ignore[arg-type]
        check_jumps((each for k in range(scales) for each in schedule.evaluations(k, scales)), self.jumps)
        guided = self.jumps and schedule.guidance_scale != 1
        require("guidance_scale", "1 for a model of jumps, which has it inside", schedule.guidance_scale, not guided)
        return schedule

    def _of_steps(self, steps: int) -> Schedule:
        """The schedule of a number of steps."""
        if self.jumps and is_count(steps):
            return jump_schedule(steps)
        return Schedule.published(steps, self.guidance_scale, self.guidance_interval)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain data for JSON; `from_dict` restores an equal one."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FlowARConfig:
        """The configuration of a JSON object.

        Raises:
            ValueError: for a field that this version does not know, naming it.
        """
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"configuration: unknown fields {', '.join(unknown)}")
        return cls(**values)


# Paper, tables 1 and 8, and the shapes of the published checkpoints; sampling settings of the authors' scripts.
PRESETS: dict[str, dict[str, Any]] = {
    "S": {"ar_width": 768, "ar_depth": 12, "ar_heads": 12, "flow_width": 1024, "flow_depth": 2},
    "B": {"ar_width": 768, "ar_depth": 16, "ar_heads": 12, "flow_width": 1024, "flow_depth": 6},
    "L": {
        "ar_width": 1024,
        "ar_depth": 16,
        "ar_heads": 16,
        "flow_width": 1024,
        "flow_depth": 12,
        "flow_block": "attn_cross_mlp",
        "guidance_scale": 2.4,
    },
    "H": {
        "ar_width": 1536,
        "ar_depth": 30,
        "ar_heads": 16,
        "flow_width": 1536,
        "flow_depth": 12,
        "flow_block": "attn_cross_mlp",
        "num_inference_steps": 50,
        "guidance_scale": 2.4,
        "guidance_interval": (0.0, 0.7),
    },
}


def require(name: str, expected: str, got: object, ok: bool) -> None:
    if not ok:
        raise ValueError(f"{name}: expected {expected}, got {got}")


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def as_tuple(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    require(name, "a list", repr(values), isinstance(values, Sequence) and not isinstance(values, str))
    return tuple(values)


def as_grid(name: str, size: int | Sequence[int]) -> Grid:
    """A grid (height, width) from a side length or a pair."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    valid = len(sides) == 2 and all(map(is_count, sides))
    require(name, "a positive side length or a (height, width) pair", repr(size), valid)
    return sides[0], sides[1]


def grid_names(grids: Sequence[Grid]) -> str:
    """Grids as messages show them: 1x1, 2x2, 4x4; height first."""
    return ", ".join(f"{height}x{width}" for height, width in grids)


def as_scales(scales: Sequence[int | Sequence[int]] | None, finest: Grid) -> tuple[Grid, ...]:
    """Grids coarse to fine, checked; halved from the finest one (rounding up) when none are given."""
    if scales is None:
        halved = [finest]
        while halved[0] != (1, 1):
            halved.insert(0, ((halved[0][0] + 1) // 2, (halved[0][1] + 1) // 2))
        return tuple(halved)
    grids = tuple(as_grid("scales", scale) for scale in as_tuple("scales", scales))
    growing = all(a[0] <= b[0] and a[1] <= b[1] and a != b for a, b in pairwise(grids))
    expected = f"growing grids from 1x1 to latent_size {finest[0]}x{finest[1]}"
    # The first scale is the class token alone.
    require(
        "scales",
        expected,
        grid_names(grids) or "none",
        bool(grids) and growing and grids[0] == (1, 1) and grids[-1] == finest,
    )
    return grids
