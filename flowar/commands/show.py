"""`flowar show`: pictures of what a model does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from flowar.commands import say
from flowar.commands.labels import Classes, parse_labels
from flowar.data.class_names import class_names_of
from flowar.errors import MissingPackageError
from flowar.system.fields import checks_fields
from flowar.system.installation import install_command
from flowar.system.picture_paths import PictureFile
from flowar.system.rules import Count, Guidance, Index, Place, Seed, Steps

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["scales", "path", "attention", "guidance", "steps", "neighbours"]


@dataclass
@checks_fields
class Options:
    """Draw a picture of what a model does: flowar show KIND.

    Attributes:
        kind: scales, path (the ODE of one scale), attention (of the AR transformer), guidance, steps, or neighbours
            (the training images nearest to samples); also as the first word, without the option's name.
        model: shipped name, folder, or Hub id.
        classes: labels or names to draw, see `flowar sample`; all classes (the first ten of a large model) if left
            out.
        seed: seed of the noise.
        output: .png, .jpg or .webp to write; KIND.png if left out.
        scale: number of the scale for path and attention; the last one if left out.
        query: [row, column] of the position whose map attention draws; the centre of the scale if left out.
        guidance_scales: strengths for guidance, a column each.
        steps: numbers of steps for steps, a column each.
        data: training images for neighbours: a folder with a subfolder per class or Fashion-MNIST's idx files, or
            WebDataset tars.
        neighbours: number of neighbours beside every sample.
        extractor: network whose features neighbours compares besides pixels: inception, efficientnet-lite0 or fashion;
            none if left out, as it sees every training image, which takes long without a GPU.
        classifier: file of another classifier for extractor fashion (`python -m experiments.fashion_classifier`
            makes one); if left out, the one that ships.
        device: device to compute on; "auto" is the GPU if there is one.
    """

    positional: ClassVar[str] = "kind"
    several: ClassVar[str] = "classes"

    kind: Kind
    model: Place = "flowar-fashion"
    classes: Classes | None = None
    seed: Seed = 0
    output: PictureFile | None = None
    scale: Index | None = None
    query: list[Index] | None = None
    guidance_scales: list[Guidance] = field(default_factory=lambda: [1.0, 2.0, 3.5, 5.0, 8.0])
    steps: list[Steps] = field(default_factory=lambda: [1, 2, 4, 8, 12, 25, 50])
    data: Place | None = None
    neighbours: Count = 4
    extractor: str | None = None
    classifier: Path | None = None
    device: str = "auto"


def run(options: Options) -> None:
    """Draw the picture, and print where it is."""
    from flowar.images.files import write_picture

    image = picture(options)
    output = options.output or Path(f"{options.kind}.png")
    write_picture(output, image)
    say(f"{options.kind} in {output}")


def picture(options: Options) -> Image:
    """The picture of one kind.

    Raises:
        ValueError: for options that the model or the kind cannot take.
        MissingPackageError: without matplotlib.
    """
    from flowar.pipeline import FlowARPipeline
    from flowar.system.precision import default_device

    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(f"matplotlib draws the pictures: {install_command('train')}") from error
    pipeline = FlowARPipeline.from_pretrained(options.model).to(default_device(options.device)).prepack()
    model = pipeline.model
    classes = parse_labels(options.classes, model.config.num_classes, class_names_of(model.config))
    labels, seed = model.check_labels(classes), options.seed

    if options.kind == "scales":
        from flowar.show.scales import scales_picture

        return scales_picture(pipeline, labels, seed)
    if options.kind == "path":
        from flowar.show.path import path_picture

        return path_picture(pipeline, labels, seed, options.scale)
    if options.kind == "attention":
        from flowar.show.attention_picture import attention_picture

        return attention_picture(pipeline, labels, seed, options.scale, options.query)
    if options.kind == "neighbours":
        from flowar.show.neighbours import feature_spaces, neighbours_picture, open_training_images

        source = open_training_images(options.data, pipeline)
        spaces = feature_spaces(options.extractor, options.classifier, labels.device)
        return neighbours_picture(pipeline, labels, seed, source, spaces, options.neighbours)
    from flowar.show.settings import guidance_picture, steps_picture

    if options.kind == "guidance":
        return guidance_picture(pipeline, labels, seed, options.guidance_scales)
    return steps_picture(pipeline, labels, seed, options.steps)
