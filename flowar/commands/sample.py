"""`flowar sample`: labels to a PNG grid."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flowar.commands import say
from flowar.data.class_names import class_names_of, resolve
from flowar.system.fields import checks_fields
from flowar.system.rules import Count, Guidance, Interval, OutputFile, Place, Seed, Steps

if TYPE_CHECKING:
    from flowar.preview.terminal import TerminalPicture

DEFAULT_CLASSES = 10
# Of a list[int | str] the parser would make the number 2 of the word 02, which may be a class's name.
Classes = list | str  # type: ignore[type-arg]


@dataclass
@checks_fields
class Options:
    """Draw images of classes into a PNG grid, by default one column of every class by the model that ships.

    Attributes:
        model: shipped name, folder, or Hub id.
        classes: labels or names to draw, as in 0,3,7 or in "golden retriever" 360; all classes (the first ten of a
            large model) if left out.
        per_class: images per class; the grid has a column per class.
        seed: seed of the noise; image i of a seed is the same in any batch and, in one dtype, on any machine, up to
            rounding.
        output: PNG to write.
        schedule: preset (published-s, published-l, published-h, paper, disa, fast, draft) or a .json file; the
            model's own if left out.
        num_inference_steps: steps of the ODE at each scale; the model's own preset if left out.
        guidance_scale: strength of guidance, 1 for none; the model's own preset if left out.
        guidance_interval: [low, high], the times at which guidance acts; the model's own preset if left out.
        dtype: dtype of the networks: float32, tf32, bfloat16, float16, fp8 or float64; "auto" is bfloat16 for a float32
            checkpoint on hardware that has it (most GPUs; CPUs with AVX512-BF16 or AMX), otherwise its own.
        device: device to compute on; "auto" is the GPU if there is one.
        attention: implementation of attention: auto, flash, flash-2, flash-3, flash-4, sdpa, sdpa-flash, sdpa-cudnn,
            sdpa-efficient or reference; "auto" is the fastest, which a GPU measures.
        naive: whether to run the published algorithm without any saving.
        preview: whether to show the picture in the terminal while it forms, scale by scale.
        preview_steps: whether `preview` and `animate` show every evaluation of the ODE, not only the end of every
            scale.
        animate: film from coarse to fine to write as well, a .gif or .webp.
    """

    several: ClassVar[str] = "classes"

    model: Place = "flowar-fashion"
    classes: Classes | None = None
    per_class: Count = 8
    seed: Seed = 0
    output: OutputFile = Path("samples.png")
    schedule: Place | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    guidance_interval: Interval | None = None
    dtype: str = "auto"
    device: str = "auto"
    attention: str = "auto"
    naive: bool = False
    preview: bool = False
    preview_steps: bool = False
    animate: OutputFile | None = None


def run(options: Options) -> None:
    """Draw the grid, write it and print where it is."""
    import torch

    from flowar.images import image_grid
    from flowar.networks.attention_backends import use_attention_backend
    from flowar.pipeline import FlowARPipeline
    from flowar.preview.watch import Watch
    from flowar.system.files import write_aside
    from flowar.system.precision import default_device, resolve_precision

    if options.preview_steps and not options.preview and options.animate is None:
        raise ValueError("preview_steps: expected preview or animate beside it, got neither")
    watch = Watch(open_terminal() if options.preview else None, options.animate)
    device = default_device(options.device)
    wanted = resolve_precision(options.dtype, device, torch.float32).name
    # Bfloat16 on a CPU packs weights of its own; loaded as float32 they would be in memory twice.
    dtype = torch.bfloat16 if (wanted, device.type, options.naive) == ("bfloat16", "cpu", False) else torch.float32
    pipeline = FlowARPipeline.from_pretrained(options.model, dtype=dtype).to(device)
    if not options.naive:
        pipeline.prepack(options.dtype)
    config = pipeline.model.config
    classes = parse_labels(options.classes, config.num_classes, class_names_of(config))
    pipeline.check_count("per_class", len(classes) * options.per_class)
    with watch, use_attention_backend(options.attention):
        images = pipeline(
            torch.tensor(classes).repeat(options.per_class),
            schedule=options.schedule,
            num_inference_steps=options.num_inference_steps,
            guidance_scale=options.guidance_scale,
            guidance_interval=options.guidance_interval,
            seed=options.seed,
            dtype=options.dtype,
            naive=options.naive,
            preview=watch.preview(len(classes)),
            preview_steps=options.preview_steps,
            progress=False if watch.terminal else None,
        ).images

    def write_both(aside: Path) -> None:  # neither is there if the other cannot be written
        image_grid(images, len(classes)).save(aside, "PNG")
        watch.write_film()

    write_aside(options.output, write_both)
    say(f"{len(images)} images in {options.output}" + (f", film in {options.animate}" if options.animate else ""))


def open_terminal() -> TerminalPicture | None:
    """The terminal to show the picture in; None, with a line that says why, if stdout shows none."""
    from flowar.preview.terminal import TerminalPicture, choose_protocol, obstacle

    reason = obstacle(sys.stdout, os.environ)
    if reason is not None:
        print(f"preview: {reason}, so no picture is shown", file=sys.stderr)
        return None
    return TerminalPicture(sys.stdout, choose_protocol(os.environ))


def parse_labels(
    classes: Sequence[int | str] | str | None, num_classes: int, class_names: Sequence[str] = ()
) -> list[int]:
    """The labels of a list, or of words like "0,3,7" or "otter, 3"; those of the first ten classes for None.

    Raises:
        FlowARError: for words that are neither integers nor each the name of one class.
    """
    if classes is None:
        return list(range(min(DEFAULT_CLASSES, num_classes)))
    return resolve(classes.split(",") if isinstance(classes, str) else classes, class_names)
