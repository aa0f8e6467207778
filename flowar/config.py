"""What a FlowAR is made of: one frozen dataclass, and the table of published sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from flowar.errors import FlowARError, shown
from flowar.sampling.jumps import check_jumps, jump_schedule
from flowar.sampling.presets import JUMP_SCHEDULES, SCHEDULES, named_schedule
from flowar.sampling.schedule import Schedule, check_name
from flowar.system.fields import check_fields, checked
from flowar.system.memory import NEVER, size
from flowar.system.rules import MOST_SIDE, Count, Fraction, Guidance, Index, Interval, Name, Side, Steps

__all__ = ["FlowARConfig"]

Grid = tuple[int, int]
IMAGENET_CLASSES = 1000
FlowBlockKind = Literal["attn_mlp", "attn_cross_mlp"]
UpsampleKind = Literal["published", "bilinear"]
Checkpointing = Literal["none", "flow", "all"]  # the blocks whose activations training computes twice
BLOCK_BYTES = 2**15  # of a block's Python objects


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

    latent_channels: Count = 16
    latent_size: int | Sequence[int] = (16, 16)
    scales: Sequence[int | Sequence[int]] | None = None
    num_classes: Count = None  # type: ignore[assignment]  # that it was left out; from __post_init__ on it is an integer
    ar_width: Count = 768
    ar_depth: Count = 12
    ar_heads: Count = 12
    flow_width: Count = 1024
    flow_depth: Count = 2
    flow_heads: Count | None = None
    flow_block: FlowBlockKind = "attn_mlp"
    qk_norm: bool = False
    upsample: UpsampleKind = "published"
    dropout: Fraction = 0.1
    class_dropout: Fraction = 0.1
    num_inference_steps: Steps = 25
    schedule: str | None = None
    jumps: Index = 0
    guidance_scale: Guidance = 4.3
    guidance_interval: Interval = (0.0, 0.9)
    tokenizer: Mapping[str, Any] | None = None
    class_names: Sequence[Name] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        def set_field(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # the dataclass is frozen

        set_field("_classes_left_out", self.num_classes is None and not self.class_names)
        set_field("num_classes", IMAGENET_CLASSES if self.num_classes is None else self.num_classes)
        set_field("latent_size", as_grid("latent_size", self.latent_size))
        set_field("scales", as_scales(self.scales, self.grid))
        check_fields(self)
        set_field("class_names", tuple(self.class_names))
        if self.flow_heads is None:
            set_field("flow_heads", max(1, self.flow_width // 64))
        self._validate()

    def _validate(self) -> None:
        require("ar_depth", "a positive even integer", self.ar_depth, self.ar_depth % 2 == 0)
        for width, heads in (("ar_width", "ar_heads"), ("flow_width", "flow_heads")):
            total, count = getattr(self, width), getattr(self, heads)
            # The 2-D rotary embedding rotates pairs of channels in each half of a head.
            require(heads, f"a divisor of {width} / 4 = {total / 4:g}", count, total % (4 * count) == 0)
        named = len(self.class_names)
        require("class_names", f"{self.num_classes} names or none", f"{named} names", named in (0, self.num_classes))
        Schedule.published(self.num_inference_steps, self.guidance_scale, self.guidance_interval)
        if self.schedule is not None:
            check_name("schedule", self.schedule, SCHEDULES | JUMP_SCHEDULES)
        require("jumps", "0 or a power of two", self.jumps, self.jumps.bit_count() < 2)
        inside = not self.jumps or self.guidance_scale == 1
        require("guidance_scale", "1 for a model of jumps, which has it inside", self.guidance_scale, inside)
        channels = dict(self.tokenizer or {}).get("channels", self.latent_channels)
        fits = channels == self.latent_channels
        require("latent_channels", f"{shown(channels)}, as the tokenizer has", self.latent_channels, fits)
        sizes = ("latent_size", "latent_channels", "num_classes", "ar_width", "ar_depth", "flow_width", "flow_depth")
        got = f"{size(self.nbytes)} for {', '.join(f'{name} {getattr(self, name)}' for name in sizes)}"
        require("model", f"at most {size(NEVER)} of weights", got, self.nbytes <= NEVER)

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

    @property
    def nbytes(self) -> int:
        """About how many bytes a model takes, in float32."""
        d, w, cross = self.ar_width, self.flow_width, self.flow_block == "attn_cross_mlp"
        ar = 18 * d * d * self.ar_depth + d * (d + 3 * self.tokens + self.num_classes + self.latent_channels)
        flow = (18 * w * w + cross * 2 * w * (w + d)) * self.flow_depth + w * (3 * w + d + 2 * self.latent_channels)
        return 4 * (ar + flow) + BLOCK_BYTES * (self.ar_depth + self.flow_depth)

    @staticmethod
    def preset(name: str, **changes: Any) -> FlowARConfig:
        """The configuration called `name` ("S", "B", "L" or "H"), with fields changed by keyword.

        Raises:
            ValueError: for a name that is not in the table.
        """
        if not isinstance(name, str) or name.upper() not in PRESETS:
            raise FlowARError(f"preset: expected one of {', '.join(PRESETS)}, got {shown(name)}")
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
            raise FlowARError(f"num_inference_steps: expected none beside a schedule, got {num_inference_steps}")
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
        if self.jumps:
            return jump_schedule(checked(steps, Steps, "num_inference_steps"))
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
            raise FlowARError(f"configuration: unknown fields {', '.join(unknown)}")
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
    """Raise a FlowARError that says what was expected and what came, unless that is `ok`."""
    if not ok:
        raise FlowARError(f"{name}: expected {expected}, got {got}")


def as_grid(name: str, size: int | Sequence[int]) -> Grid:
    """A grid (height, width) from a side length or a pair.

    Raises:
        ValueError: for anything else.
    """
    try:
        sides = checked(size, Sequence[Side] if hasattr(size, "__len__") else Side, name)
    except FlowARError:
        sides = ()
    sides = sides if isinstance(sides, (list, tuple)) else (sides, sides)
    expected = f"a positive side length or a (height, width) pair, up to {MOST_SIDE}"
    require(name, expected, shown(size), len(sides) == 2)
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
    grids = tuple(as_grid("scales", scale) for scale in checked(scales, Sequence[Any], "scales"))
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
