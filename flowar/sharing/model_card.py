"""The page of a model on the Hub: README.md with a picture, what the model is, and how to load it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowar.errors import FlowARError
from flowar.storage.weights import fingerprint
from flowar.system.files import write_aside

if TYPE_CHECKING:
    from flowar.pipeline import FlowARPipeline

CARD_FILE, PICTURE_FILE = "README.md", "samples.png"
TAGS = ["flowar", "image-generation", "class-conditional", "flow-matching", "autoregressive"]
PICTURED_CLASSES, NAMED_CLASSES = 10, 20  # a model may have a thousand


@dataclass(frozen=True)
class CardDetails:
    """What a card says that the model itself does not know.

    Attributes:
        license: of the weights, by the Hub's identifier, such as "apache-2.0".
        training_data: what the model was trained on, in a sentence or more.
        datasets: Hub ids of that data.
        evaluation: the card of `flowar evaluate`, a file or its folder; uploaded as well.
        samples: images of every class in the picture, of the first ten classes; 0 for no picture.

    Raises:
        ValueError: for a negative number of samples.
    """

    license: str = "unknown"
    training_data: str = ""
    datasets: tuple[str, ...] = ()
    evaluation: Path | None = None
    samples: int = 4

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ValueError(f"samples: expected an integer from 0 on, got {self.samples}")


def write_model_card(folder: Path, pipeline: FlowARPipeline, repo: str, details: CardDetails) -> None:
    """Write README.md into `folder`, with what it shows and links to beside it.

    Raises:
        FlowARError: for an evaluation of other weights, or a file that is no evaluation card.
        OSError: if reading or writing fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = copy_evaluation(folder, pipeline, details.evaluation) if details.evaluation else []
    if details.samples:
        draw_samples(folder / PICTURE_FILE, pipeline, details.samples)
    text = model_card(pipeline, repo, details, metrics)
    write_aside(folder / CARD_FILE, lambda aside: aside.write_text(text, encoding="utf-8"))


def model_card(pipeline: FlowARPipeline, repo: str, details: CardDetails, metrics: Sequence[str]) -> str:
    """The text; `metrics` are the lines of a table."""
    config = pipeline.model.config
    parts = [
        front_matter(details),
        f"# {repo.split('/')[-1]}",
        "A [FlowAR](https://arxiv.org/abs/2412.15205) model: class labels to images, coarse to fine.",
        f"![A column for each class]({PICTURE_FILE})" if details.samples else "",
        "## Load",
        "```python\nfrom flowar import FlowARPipeline\n\n"
        f'pipe = FlowARPipeline.from_pretrained("{repo}")\nimages = pipe([0], seed=0).images\n```',
        "## Model",
        "\n".join(["| part | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts(pipeline).items())]),
        "## Training data",
        details.training_data or "Not stated.",
        "## Schedule",
        f"{f'`{config.schedule}`, u' if config.schedule else 'U'}nless a call says otherwise:",
        f"```text\n{pipeline.model.schedule().describe(len(config.grids))}\n```",
        *(["## Evaluation", "\n".join(metrics), "All settings: [card.md](card.md)."] if metrics else []),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def front_matter(details: CardDetails) -> str:
    """What the Hub reads."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=details.license,
        library_name="flowar",
        pipeline_tag="unconditional-image-generation",  # of the Hub's tasks the nearest
        tags=TAGS,
        datasets=[*details.datasets] or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def facts(pipeline: FlowARPipeline) -> dict[str, Any]:
    """What the model is made of."""
    config, tokenizer = pipeline.model.config, pipeline.tokenizer
    height, width = (side * tokenizer.stride for side in config.grid)
    grids = ", ".join(f"{rows}x{columns}" for rows, columns in config.grids)
    names = ", ".join(config.class_names[:NAMED_CLASSES]) + (", ..." if config.num_classes > NAMED_CLASSES else "")
    parameters = [sum(each.numel() for each in part.state_dict().values()) for part in (pipeline.model, tokenizer)]
    return {
        "images": f"{height}x{width}, {'grey' if tokenizer.image_channels == 1 else 'RGB'}",
        "classes": f"{config.num_classes}: {names}" if config.class_names else config.num_classes,
        "tokenizer": f"{tokenizer.kind}, {config.latent_channels} channels at stride {tokenizer.stride}",
        "scales": grids,
        "AR transformer": f"width {config.ar_width}, {config.ar_depth} blocks, {config.ar_heads} heads",
        "flow transformer": f"width {config.flow_width}, {config.flow_depth} blocks (`{config.flow_block}`), "
        f"{config.flow_heads} heads",
        "parameters": f"{parameters[0]:,}, and {parameters[1]:,} of the tokenizer",
        "hash of the weights": f"`{fingerprint(pipeline.model.state_dict())}`",
    }


def draw_samples(path: Path, pipeline: FlowARPipeline, per_class: int) -> None:
    """A column for each of the first classes, seed 0."""
    from flowar.images import image_grid

    labels = [*range(min(PICTURED_CLASSES, pipeline.model.config.num_classes))]
    picture = image_grid(pipeline(labels * per_class, seed=0).images, len(labels))
    write_aside(path, lambda aside: picture.save(aside, "PNG"))


def copy_evaluation(folder: Path, pipeline: FlowARPipeline, source: Path) -> list[str]:
    """Copy an evaluation card into `folder`, and give its metrics as the lines of a table.

    Raises:
        FlowARError: unless it is a card of images that a model of these weights drew.
    """
    from flowar.evaluation.card import metrics_table, read_card, write_card

    card = read_card(source)
    expected = fingerprint(pipeline.model.state_dict())
    found = card["settings"].get("model", {}).get("weights", "none")
    if found != expected:
        raise FlowARError(f"evaluation: expected a card of this model (weights {expected}), got weights {found}")
    write_card(folder, card)
    return metrics_table(card)
