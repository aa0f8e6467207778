"""`flowar edit`: a picture changed in part, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from flowar.commands import say
from flowar.commands.sample import Classes
from flowar.system.fields import checks_fields
from flowar.system.rules import Count, Guidance, Index, OutputFile, Place, Range, Seed

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowar.pipeline import FlowARPipeline

Kind = Literal["inpaint", "outpaint", "vary", "super-resolve", "interpolate"]


@dataclass
@checks_fields
class Options:
    """Edit a picture: flowar edit KIND. The result is a row of pictures in one PNG.

    Attributes:
        kind: inpaint (what is white in `mask`), outpaint (around the picture, scaled into `box`), vary (keep the first
            `keep_scales`; under another class a class swap), super-resolve (a small picture), or interpolate (from the
            first of `classes` and `seed` to the second and `to_seed`); also as the first word, without the option's
            name.
        classes: label or name of the class, see `flowar classes`; interpolate takes two.
        image: picture to edit, of the model's size but for outpaint and super-resolve.
        mask: picture of the same size, white where inpaint draws anew.
        box: [left, top, right, bottom] in pixels, the place of the picture for outpaint.
        keep_scales: number of coarse scales that vary keeps.
        rounds: rounds of inpaint and outpaint, in which the new part and the old one come to agree; each takes its
            time.
        paste: whether inpaint and outpaint keep exactly the picture's own pixels where it is not drawn anew.
        count: number of pictures to draw.
        seed: seed of the noise; image i of a seed is the same in any batch.
        to_seed: seed that interpolate goes to; `seed` plus 1 if left out.
        model: shipped name, folder, or Hub id.
        schedule: preset or .json file, see `flowar sample`; the model's own if left out.
        guidance_scale: strength of guidance, 1 for none; the model's own preset if left out.
        output: the PNG to write.
        device: device to compute on; "auto" is the GPU if there is one.
    """

    positional: ClassVar[str] = "kind"
    several: ClassVar[str] = "classes"

    kind: Kind
    classes: Classes
    image: Path | None = None
    mask: Path | None = None
    box: tuple[Index, Index, Index, Index] | None = None
    keep_scales: Index = 2
    rounds: Annotated[int, Range(1, 1000)] = 3
    paste: bool = False
    count: Count = 4
    seed: Seed = 0
    to_seed: Seed | None = None
    model: Place = "flowar-fashion"
    schedule: Place | None = None
    guidance_scale: Guidance | None = None
    output: OutputFile = Path("edited.png")
    device: str = "auto"


def run(options: Options) -> None:
    """Write the row of pictures, and print where it is."""
    from flowar.images import image_grid
    from flowar.pipeline import FlowARPipeline
    from flowar.system.files import write_aside
    from flowar.system.precision import default_device

    pipeline = FlowARPipeline.from_pretrained(options.model).to(default_device(options.device)).prepack()
    images, kept = edited(pipeline, options)
    write_aside(options.output, lambda aside: image_grid(images, len(images)).save(aside, "PNG"))
    say(f"{len(images)} images in {options.output}{kept}")


def edited(pipeline: FlowARPipeline, options: Options) -> tuple[list[Image], str]:
    """Edit the picture as the options say; the pictures, and what there is to say of pixels that were kept.

    Raises:
        ValueError: for options that are missing, or not of this kind of edit.
    """
    from flowar.editing import edits
    from flowar.editing.pictures import kept_pixels, open_mask, open_picture, placed

    classes = options.classes.split(",") if isinstance(options.classes, str) else options.classes
    wanted = 2 if options.kind == "interpolate" else 1
    if len(classes) != wanted:
        raise ValueError(f"classes: expected {wanted} for {options.kind}, got {len(classes)}")
    sampling: dict[str, Any] = {"schedule": options.schedule, "guidance_scale": options.guidance_scale}
    if options.kind == "interpolate":
        seeds = options.seed, options.seed + 1 if options.to_seed is None else options.to_seed
        return edits.interpolate(pipeline, (classes[0], classes[1]), seeds, options.count, **sampling), ""
    (label,), image = classes, open_picture("image", options.image, pipeline.tokenizer.image_channels)
    sampling |= {"seed": options.seed, "count": options.count}
    if options.kind == "vary":
        return edits.vary(pipeline, image, label, options.keep_scales, **sampling), ""
    if options.kind == "super-resolve":
        return edits.super_resolve(pipeline, image, label, **sampling), ""
    if options.kind == "inpaint":
        mask = open_mask(options.mask)
    elif options.box is None:
        raise ValueError("box: expected left, top, right, bottom for outpaint, got none")
    else:
        image, mask = placed(pipeline, image, options.box)
    images = edits.inpaint(pipeline, image, mask, label, paste=options.paste, rounds=options.rounds, **sampling)
    return images, f", {kept_pixels(mask)} of {image.width * image.height} pixels as they were" * options.paste
