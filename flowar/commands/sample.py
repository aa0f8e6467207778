"""`flowar sample`: labels to pictures, in one file or many."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flowar.commands.labels import Classes
from flowar.errors import FlowARError
from flowar.system.fields import checks_fields
from flowar.system.picture_paths import STDOUT, PictureOutput
from flowar.system.rules import Count, Guidance, Interval, OutputFile, Place, Seed, Steps, Zoom

if TYPE_CHECKING:
    from flowar.preview.terminal import TerminalPicture

WATCHING = ("preview", "animate")
OF_PICTURES = ("output", "zoom", "labels", *WATCHING)  # options that mean nothing to an npz


@dataclass
@checks_fields
class Options:
    """Draw pictures of classes, by default one grid with a column of every class by the model that ships.

    Under torchrun the pictures of an npz or a folder are shared out over the processes.

    Attributes:
        model: shipped name, folder, or Hub id.
        classes: labels or names to draw, as in 0,3,7 or in "golden retriever" 360; all classes (the first ten of a
            large model, unless `num_images` is given) if left out.
        per_class: images per class; the grid has a column per class. 8 unless `num_images` is given.
        num_images: number of images in all; image i has the i-th class in turn.
        seed: seed of the noise of the first image; image i has `seed` plus i, in any batch the same and, in one dtype,
            on any machine, up to rounding. A fresh one, which the last line tells, if left out.
        output: picture to write, a .png, .jpg or .webp; a folder as in out/ or names as in out/{class}-{seed}.png for a
            file per image ({index} and {label}, too); - writes a PNG to stdout. samples.png if left out.
        npz: file to write instead, for evaluators: ADM's format, uint8 [N, height, width, 3].
        zoom: whole factor to enlarge images by; if left out, small ones are enlarged where they are in a grid.
        labels: whether the names of classes stand above the images.
        schedule: preset (published-s, published-l, published-h, paper, disa, fast, draft) or a .json file; the
            model's own if left out.
        num_inference_steps: steps of the ODE at each scale; the model's own preset if left out.
        guidance_scale: strength of guidance, 1 for none; the model's own preset if left out.
        guidance_interval: [low, high], the times at which guidance acts; the model's own preset if left out.
        dtype: dtype of the networks: float32, tf32, bfloat16, float16, fp8 or float64; "auto" is bfloat16 for a float32
            checkpoint on hardware that has it (most GPUs; CPUs with AVX512-BF16 or AMX), otherwise its own.
        batch_size: images drawn at once for an npz or a file per image; those of a grid are all drawn at once.
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
    per_class: Count | None = None
    num_images: Count | None = None
    seed: Seed | None = None
    output: PictureOutput | None = None
    npz: OutputFile | None = None
    zoom: Zoom | None = None
    labels: bool = False
    schedule: Place | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    guidance_interval: Interval | None = None
    dtype: str = "auto"
    batch_size: Count = 100
    device: str = "auto"
    attention: str = "auto"
    naive: bool = False
    preview: bool = False
    preview_steps: bool = False
    animate: OutputFile | None = None


def run(options: Options) -> None:
    """Draw the pictures, write them and print where they are."""
    check_together(options)
    from flowar.commands.drawing import Drawing
    from flowar.networks.attention_backends import use_attention_backend
    from flowar.preview.watch import Watch
    from flowar.system.ranks import join_ranks

    watch = Watch(open_terminal() if options.preview else None, options.animate)
    with join_ranks(options.device) as ranks, use_attention_backend(options.attention):
        drawing = Drawing(options, ranks)
        if options.npz is None:
            drawing.write_pictures(watch)
        else:
            drawing.write_npz(options.npz)


def check_together(options: Options) -> None:
    """Check options that depend on each other.

    Raises:
        FlowARError: naming those that do not go together.
    """
    given = {name for name, value in vars(options).items() if value is not None and value is not False}
    for pair in (("per_class", "num_images"), *(("npz", name) for name in OF_PICTURES)):
        if given.issuperset(pair):
            raise FlowARError(f"{' and '.join(pair)}: expected one of them, got both")
    if options.preview_steps and not given.intersection(WATCHING):
        raise FlowARError("preview_steps: expected preview or animate beside it, got neither")
    if options.output == STDOUT and options.preview:
        raise FlowARError("output and preview: expected one of them on stdout, got both")


def open_terminal() -> TerminalPicture | None:
    """The terminal to show the picture in; None, with a line that says why, if stdout shows none."""
    from flowar.preview.terminal import TerminalPicture, choose_protocol, obstacle

    reason = obstacle(sys.stdout, os.environ)
    if reason is not None:
        print(f"preview: {reason}, so no picture is shown", file=sys.stderr)
        return None
    return TerminalPicture(sys.stdout, choose_protocol(os.environ))
