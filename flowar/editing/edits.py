"""The edits: each takes a pipeline and pictures of its size, and passes `options` on to the pipeline."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from flowar.data.class_names import class_names_of, resolve
from flowar.data.opening import plain
from flowar.editing.known import pins_of_known, pins_of_scales, pins_where, with_mean
from flowar.editing.pictures import Size, check_picture, known_latents, paste_known, picture_size, placed, to_latents
from flowar.model import FlowAR
from flowar.pipeline import FlowARPipeline, PictureOptions
from flowar.pipeline.seeds import image_seeds_of
from flowar.sampling.noise import scale_noise
from flowar.sampling.options import SamplingOptions
from flowar.sampling.pins import Pins
from flowar.system.arguments import check_integer, check_type
from flowar.system.transfer import to_device

if TYPE_CHECKING:
    from typing_extensions import Unpack

ROUNDS = 3  # of inpainting, by default
# What only the last round of inpainting is shown to.
WATCHERS = {"preview", "preview_steps", "on_scale", "on_evaluation", "on_step_end"}
WATCHERS |= {"callback_on_step_end", "callback_on_step_end_tensor_inputs"}


def inpaint(
    pipeline: FlowARPipeline,
    image: Image.Image,
    mask: Image.Image,
    class_label: int | str,
    count: int = 1,
    *,
    paste: bool = False,
    rounds: int = ROUNDS,
    **options: Unpack[PictureOptions],
) -> list[Image.Image]:
    """Draw the white part of a mask anew, `count` times.

    The rest comes back through the tokenizer, up to its own error. The image is drawn in rounds, from the same noise.
    The known part determines only a share of coarse tokens, such as the mean of the image: all rounds but the last
    leave these free, and each holds the coarsest token at the mean of what the round before drew, so that the parts
    agree.

    Args:
        pipeline: the pipeline that draws.
        image: the picture to edit, of the pipeline's size.
        mask: a picture of the same size, white where it is drawn anew: grey counts as white from its middle on, what is
            transparent does not.
        class_label: the label or the name of the class.
        count: the number of pictures.
        paste: whether the known pixels are the original's exactly.
        rounds: the number of rounds.
        options: options of the pipeline's call, such as `seed`, which is 0 if neither it nor `generator` is given: as
            nothing tells what a fresh one was.

    Raises:
        ValueError: for an image or a mask of another size than the pipeline's, a mask without white, or no round.
    """
    check_integer("rounds", rounds)
    check_type("paste", paste, bool, "true or false")
    check_integer("count", count)
    known, latents = known_latents(pipeline, mask), to_latents(pipeline, image)
    pins = pins_where(pipeline.model, latents, known)
    certain = pins_of_known(pins)
    pipeline.check_count("count", count)
    options = with_seeds(options, count)
    for _ in range(rounds - 1):
        drawn = draft(pipeline, certain, class_label, count, options)
        certain, pins = with_mean(certain, drawn), with_mean(pins, drawn)
    edited = draw(pipeline, pins, class_label, count, options)
    return paste_known(image, edited, mask) if paste else edited


def outpaint(
    pipeline: FlowARPipeline,
    image: Image.Image,
    box: tuple[int, int, int, int],
    class_label: int | str,
    count: int = 1,
    *,
    paste: bool = False,
    rounds: int = ROUNDS,
    **options: Unpack[PictureOptions],
) -> list[Image.Image]:
    """Draw around an image, which is scaled into `box` (left, top, right, bottom in pixels), by `inpaint`.

    Raises:
        ValueError: for a box that is not inside the picture, or is all of it.
    """
    canvas, mask = placed(pipeline, image, box)
    return inpaint(pipeline, canvas, mask, class_label, count, paste=paste, rounds=rounds, **options)


def vary(
    pipeline: FlowARPipeline,
    image: Image.Image,
    class_label: int | str,
    keep_scales: int,
    count: int = 1,
    **options: Unpack[PictureOptions],
) -> list[Image.Image]:
    """Draw other pictures with the same first `keep_scales`: variations or, under another label, a class swap.

    Raises:
        ValueError: for an image of another size, or `keep_scales` that leave nothing to draw.
    """
    latents = to_latents(pipeline, image)
    pins = pins_of_scales(pipeline.model, latents, keep_scales)
    return draw(pipeline, pins, class_label, count, options)


def super_resolve(
    pipeline: FlowARPipeline,
    image: Image.Image,
    class_label: int | str,
    count: int = 1,
    **options: Unpack[PictureOptions],
) -> list[Image.Image]:
    """Enlarge a small image to the pipeline's size: it pins the scales that it determines, the others are drawn.

    Raises:
        ValueError: for an image of another aspect than the pipeline's, or too large or too small to tell any scale.
    """
    width, height = picture_size(pipeline)
    check_picture("image", image)
    image = plain(image, pipeline.tokenizer.image_channels)
    if image.width * height != image.height * width:
        raise ValueError(
            f"image: expected the aspect of {width}x{height} pixels, got {image.width}x{image.height}; "
            f"crop it to {largest_crop((width, height), image.size)}"
        )
    stride = pipeline.tokenizer.stride
    told = sum(columns * stride <= image.width for _, columns in pipeline.model.config.grids)
    if told in (0, len(pipeline.model.config.grids)):
        raise ValueError(f"image: expected {stride} to {width - 1} pixels across, got {image.width}")
    full = image.resize((width, height), Image.Resampling.BICUBIC)
    return vary(pipeline, full, class_label, told, count, **options)


def largest_crop(aspect: Size, size: Size) -> str:
    """The largest picture within `size` (width, height) that has exactly the aspect of another, as 40x30."""
    divisor = math.gcd(*aspect)
    width, height = (side // divisor for side in aspect)
    factor = max(1, min(size[0] // width, size[1] // height))
    return f"{factor * width}x{factor * height}"


def interpolate(
    pipeline: FlowARPipeline,
    class_labels: tuple[int | str, int | str],
    seeds: tuple[int, int],
    count: int = 8,
    **options: Unpack[SamplingOptions],
) -> list[Image.Image]:
    """Draw `count` pictures from one class and seed to another.

    Class embeddings go along a line, noise along a circle, so that it stays normal.

    Raises:
        ValueError: for labels that the model does not have, or fewer than two pictures, labels or seeds.
    """
    check_type("pipeline", pipeline, FlowARPipeline, "a FlowARPipeline")
    if check_integer("count", count) < 2:
        raise ValueError(f"count: expected at least 2 pictures, got {count}")
    for name, pair in (("class_labels", class_labels), ("seeds", seeds)):
        check_type(name, pair, (list, tuple), "two of them")
        if len(pair) != 2:
            raise ValueError(f"{name}: expected two of them, got {len(pair)}")
    pipeline.check_count("count", check_integer("count", count))
    model = pipeline.model
    ends = model.check_labels(resolve(class_labels, class_names_of(model.config)))
    shares = torch.linspace(0, 1, count)
    twin = with_classes(model, mixed_embeddings(model, ends, shares))
    labels = model.config.num_classes + torch.arange(count)
    return pipeline.decode(twin.sample(labels, noise=mixed_noise(model, seeds, shares), **options))


def draw(
    pipeline: FlowARPipeline, pins: Pins, class_label: int | str, count: int, options: PictureOptions
) -> list[Image.Image]:
    """Draw `count` pictures of a class under their pins, or under those of one picture."""
    pipeline.check_count("count", check_integer("count", count))
    return pipeline([class_label] * count, pins=repeated(pins, count), **with_seeds(options, count)).images


def with_seeds(options: PictureOptions, count: int) -> PictureOptions:
    """Options with a seed for each of `count` pictures in the place of `seed` and `generator`; 0 without both."""
    seed, generator = options.get("seed"), options.get("generator")
    seeds = image_seeds_of(0 if seed is None and generator is None else seed, generator, count)
    return {**options, "seed": seeds, "generator": None}


def draft(pipeline: FlowARPipeline, pins: Pins, class_label: int | str, count: int, options: PictureOptions) -> Tensor:
    """The latents [count, c, h, w] of the pictures that `draw` would draw, without calling previews or callbacks."""
    pipeline.check_count("count", check_integer("count", count))
    quiet: dict[str, Any] = {name: value for name, value in options.items() if name not in (*WATCHERS, "generator")}
    return pipeline.sample([class_label] * count, pins=repeated(pins, count), **quiet)


def repeated(pins: Pins, count: int) -> Pins:
    """The pins of `count` pictures, from as many or from those of one.

    Raises:
        ValueError: for no picture.
    """
    check_integer("count", count)
    return Pins([each.expand(count, -1, -1) for each in pins.tokens], pins.masks)


def mixed_embeddings(model: FlowAR, ends: Tensor, shares: Tensor) -> Tensor:
    """Class embeddings [count, D] on the line from one class to another, `ends` [2]."""
    table = model.ar_transformer.class_embedding.weight.detach()
    first, last = table[ends]
    return torch.lerp(first, last, to_device(shares[:, None], table.device, table.dtype))


def mixed_noise(model: FlowAR, seeds: tuple[int, int], shares: Tensor) -> list[Tensor]:
    """Noise [count, n_k, c] of every scale that turns from one seed's to the other's and stays normal."""
    config, device = model.config, model.ar_transformer.input_positions.device
    pairs = scale_noise(list(seeds), 2, config.scale_lengths, config.latent_channels, device)
    angles = to_device((shares * torch.pi / 2).view(-1, 1, 1), device)
    return [angles.cos() * pair[:1] + angles.sin() * pair[1:] for pair in pairs]


def with_classes(model: FlowAR, embeddings: Tensor) -> FlowAR:
    """A model with M more classes, of these embeddings [M, D]; it shares all other parameters."""
    table = model.ar_transformer.class_embedding.weight.detach()
    twin = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    rows = torch.cat((table[:-1], embeddings.to(table), table[-1:]))  # the null class is the last one
    twin.config = replace(model.config, num_classes=model.config.num_classes + len(embeddings), class_names=())
    twin.ar_transformer.class_embedding = nn.Embedding.from_pretrained(rows)
    return twin
