"""`flowar edit`: a picture changed in part, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowar.pipeline import FlowARPipeline

Kind = Literal["inpaint", "outpaint", "vary", "super-resolve", "interpolate"]


@dataclass
class Options:
    """Change a picture: flowar edit KIND. The result is a row of pictures in one PNG.

    Attributes:
        kind: inpaint (what is white in `mask`), outpaint (around the picture, scaled into `box`), vary (keep the first
            `keep_scales`; under another class a class swap), super-resolve (a small picture), or interpolate (from the
            first of `classes` and `seeds` to the second); also as the first word, without the option's name.
        classes: label or name of the class, see `flowar classes`; of interpolate two of them.
        image: the picture, of the model's size but for outpaint and super-resolve.
        mask: of inpaint, a picture of the same size that is white where it is to be drawn anew.
        box: of outpaint, [left, top, right, bottom] in pixels.
        keep_scales: of vary, how many of the coarse scales stay.
        rounds: of inpaint and outpaint, in which the new part and the old one come to agree; each takes its time.
        paste: of inpaint and outpaint, exactly the picture's own pixels where it was not drawn anew.
        count: pictures to draw.
        seeds: of the noise; picture i has the first plus i, but interpolate goes from the first to the second.
        model: shipped name, folder, or Hub id.
        schedule: a preset or a .json file, as of `flowar sample`; the model's own if left out.
        guidance_scale: 1 is none; the model's own preset if left out.
        output: the PNG to write.
        device: "auto" is the GPU if there is one.
    """

    positional: ClassVar[str] = "kind"
    several: ClassVar[str] = "classes"

    kind: Kind
    classes: list[int | str] | str
    image: Path | None = None
    mask: Path | None = None
    box: tuple[int, int, int, int] | None = None
    keep_scales: int = 2
    rounds: int = 3
    paste: bool = False
    count: int = 4
    seeds: tuple[int, int] = (0, 1)
    model: str = "flowar-fashion"
    schedule: str | None = None
    guidance_scale: float | None = None
    output: Path = Path("edited.png")
    device: str = "auto"


def run(options: Options) -> None:
    """Write the row of pictures and say where it is."""
    from flowar.images import image_grid
    from flowar.pipeline import FlowARPipeline
    from flowar.system.files import write_aside
    from flowar.system.precision import default_device

    pipeline = FlowARPipeline.from_pretrained(options.model).to(default_device(options.device)).prepack()
    images = edited(pipeline, options)
    write_aside(options.output, lambda aside: image_grid(images, len(images)).save(aside, "PNG"))
    print(f"{len(images)} images in {options.output}")


def edited(pipeline: FlowARPipeline, options: Options) -> list[Image]:
    """The pictures asked for.

    Raises:
        ValueError: for options that are missing, or not of this kind of edit.
    """
    from flowar.editing import edits
    from flowar.editing.pictures import open_picture

    classes = options.classes.split(",") if isinstance(options.classes, str) else options.classes
    wanted = 2 if options.kind == "interpolate" else 1
    if len(classes) != wanted:
        raise ValueError(f"classes: expected {wanted} for {options.kind}, got {len(classes)}")
    sampling: dict[str, Any] = {"schedule": options.schedule, "guidance_scale": options.guidance_scale}
    if options.kind == "interpolate":
        return edits.interpolate(pipeline, (classes[0], classes[1]), options.seeds, options.count, **sampling)
    (label,), image = classes, open_picture("image", options.image)
    sampling |= {"seed": options.seeds[0], "count": options.count}
    if options.kind == "vary":
        return edits.vary(pipeline, image, label, options.keep_scales, **sampling)
    if options.kind == "super-resolve":
        return edits.super_resolve(pipeline, image, label, **sampling)
    sampling |= {"paste": options.paste, "rounds": options.rounds}
    if options.kind == "inpaint":
        return edits.inpaint(pipeline, image, open_picture("mask", options.mask), label, **sampling)
    if options.box is None:
        raise ValueError("box: expected left, top, right, bottom for outpaint, got none")
    return edits.outpaint(pipeline, image, options.box, label, **sampling)
