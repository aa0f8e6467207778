"""`flowar sample`: labels to a PNG grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_CLASSES = 10


@dataclass
class Options:
    """Labels to images: a PNG grid, by default one row of every class from the model that ships with the package.

    Attributes:
        model: shipped name, folder, or Hub id.
        classes: labels to draw; all classes (the first ten of a large model) if left out.
        per_class: images of every class; the grid has a column a class.
        seed: image i of a seed is the same in any batch, on any machine.
        output: the PNG to write.
        num_inference_steps, guidance_scale, guidance_interval: the model's own preset if left out.
        dtype: of the networks: float32, bfloat16 or float16; the checkpoint's own if left out.
        device: "auto" is the GPU if there is one.
        naive: run the published algorithm without any saving.
    """

    model: str = "flowar-fashion"
    classes: list[int] | None = None
    per_class: int = 8
    seed: int = 0
    output: Path = Path("samples.png")
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    dtype: str | None = None
    device: str = "auto"
    naive: bool = False


def run(options: Options) -> None:
    """Write the grid and say where it is."""
    import torch

    from flowar.files import write_aside
    from flowar.pipeline import FlowARPipeline, image_grid
    from flowar.precision import default_device, parse_dtype

    pipeline = FlowARPipeline.from_pretrained(options.model).to(default_device(options.device))
    classes = options.classes or list(range(min(DEFAULT_CLASSES, pipeline.model.config.num_classes)))
    images = pipeline(
        torch.tensor(classes).repeat(options.per_class),
        num_inference_steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
        guidance_interval=options.guidance_interval,
        seed=options.seed,
        dtype=parse_dtype(options.dtype),
        naive=options.naive,
    ).images
    write_aside(options.output, lambda aside: image_grid(images, len(classes)).save(aside, "PNG"))
    print(f"{len(images)} images in {options.output}")
