"""`flowar edit`: a picture changed in part, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from flowar.commands.labels import Classes
from flowar.errors import FlowARError
from flowar.system.fields import checks_fields
from flowar.system.picture_paths import PictureOutput
from flowar.system.rules import Count, Guidance, Index, Place, Range, Seed, Zoom

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowar.commands.pictures import Subject
    from flowar.pipeline import FlowARPipeline

Kind = Literal["inpaint", "outpaint", "vary", "super-resolve", "interpolate"]


@dataclass
@checks_fields
class Options:
    """Edit a picture: flowar edit KIND. The result is a row of pictures in one file, or a file for each.

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
        seed: seed of the noise of the first picture; picture i has `seed` plus i. A fresh one, which the last line
            tells, if left out.
        to_seed: seed that interpolate goes to, where `seed` is that of its first picture; `seed` plus 1 if left out.
        model: shipped name, folder, or Hub id.
        schedule: preset or .json file, see `flowar sample`; the model's own if left out.
        guidance_scale: strength of guidance, 1 for none; the model's own preset if left out.
        output: where to write, see `flowar sample`: one .png, .jpg or .webp, a folder or names for a file per picture,
            or - for stdout.
        zoom: whole factor to enlarge pictures by; if left out, several small ones in one file are enlarged.
        labels: whether the names of classes stand above the pictures.
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
    seed: Seed | None = None
    to_seed: Seed | None = None
    model: Place = "flowar-fashion"
    schedule: Place | None = None
    guidance_scale: Guidance | None = None
    output: PictureOutput = "edited.png"
    zoom: Zoom | None = None
    labels: bool = False
    device: str = "auto"


def run(options: Options) -> None:
    """Write the pictures, and print where they are."""
    from flowar.commands.pictures import Pictures, facts
    from flowar.data.class_names import class_names_of
    from flowar.pipeline import FlowARPipeline
    from flowar.system.precision import default_device

    pipeline = FlowARPipeline.from_pretrained(options.model).to(default_device(options.device)).prepack()
    pipeline.check_count("count", options.count)
    names = class_names_of(pipeline.model.config)
    labels, seeds = labels_of(options, names), seeds_of(options)
    pipeline.model.check_labels(labels)
    schedule = pipeline.model.schedule(guidance_scale=options.guidance_scale, base=options.schedule)
    subjects = subjects_of(options, names, labels, seeds)
    pictures = Pictures(
        options.output,
        subjects,
        options.count,
        pipeline.picture_size,
        {"edit": options.kind, **facts(options.model, pipeline, schedule)},
        options.zoom,
        options.labels,
    )
    images, kept = edited(pipeline, options, labels, seeds)
    pictures.write(images)
    pictures.report(kept, f"seed {subjects[0].seed}")


def labels_of(options: Options, names: Sequence[str]) -> list[int]:
    """The label of the class, or those of the two to interpolate.

    Raises:
        ValueError: for another number of classes, or unknown ones.
    """
    from flowar.data.class_names import resolve

    classes = options.classes.split(",") if isinstance(options.classes, str) else options.classes
    wanted = 2 if options.kind == "interpolate" else 1
    if len(classes) != wanted:
        raise FlowARError(f"classes: expected {wanted} for {options.kind}, got {len(classes)}")
    return resolve(classes, names)


def seeds_of(options: Options) -> list[int]:
    """The seed of every picture, or those of the two to interpolate."""
    from flowar.commands.pictures import fresh_seed, seed_of

    first = fresh_seed() if options.seed is None else options.seed
    if options.kind != "interpolate":
        return [seed_of(first, number) for number in range(options.count)]
    return [first, seed_of(first, 1) if options.to_seed is None else options.to_seed]


def subjects_of(options: Options, names: Sequence[str], labels: Sequence[int], seeds: Sequence[int]) -> list[Subject]:
    """What every picture shows."""
    from flowar.commands.pictures import Subject

    if options.kind != "interpolate":
        return [Subject.of(names, labels[0], seed) for seed in seeds]
    first, last = (Subject.of(names, label, seed) for label, seed in zip(labels, seeds, strict=True))
    return [first.until(last)] * options.count


def edited(
    pipeline: FlowARPipeline, options: Options, labels: Sequence[int], seeds: Sequence[int]
) -> tuple[list[Image], str]:
    """Edit the picture as the options say; the pictures, and what there is to say of pixels that were kept.

    Raises:
        ValueError: for options that are missing, or not of this kind of edit.
    """
    from flowar.editing import edits
    from flowar.editing.pictures import kept_pixels, open_mask, open_picture, placed

    sampling: dict[str, Any] = {"schedule": options.schedule, "guidance_scale": options.guidance_scale}
    if options.kind == "interpolate":
        ends = (labels[0], labels[1]), (seeds[0], seeds[1])
        return edits.interpolate(pipeline, *ends, options.count, **sampling), ""
    label, image = labels[0], open_picture("image", options.image, pipeline.tokenizer.image_channels)
    sampling |= {"seed": seeds, "count": options.count}
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
    kept = f"{kept_pixels(mask)} of {image.width * image.height} pixels as they were"
    return images, kept if options.paste else ""
