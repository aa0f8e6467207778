"""The page of a model on the Hub: a README.md that says what the model is and how to load it, from plain facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowar.system.fields import checks_fields
from flowar.system.markdown import plain
from flowar.system.rules import Index

CARD_FILE, PICTURE_FILE = "README.md", "samples.png"
TAGS = ["flowar", "image-generation", "class-conditional", "flow-matching", "autoregressive"]


@dataclass(frozen=True)
class ModelFacts:
    """What a card says that the model itself knows.

    Attributes:
        parts: what the model is made of, the lines of a table by their names; both in Markdown.
        schedule: a table of the schedule that it samples with.
        preset: the name of that schedule, if it has one.
    """

    parts: Mapping[str, str]
    schedule: str
    preset: str | None


@dataclass(frozen=True)
@checks_fields
class CardDetails:
    """What a card says that the model itself does not know.

    Attributes:
        license: of the weights, by the Hub's identifier, such as "apache-2.0".
        training_data: what the model was trained on, in a sentence or more of Markdown.
        datasets: Hub ids of that data.
        evaluation: the card of `flowar evaluate`, a file or its folder; uploaded as well.
        samples: images of every class in the picture, of the first ten classes; 0 for no picture.

    Raises:
        ValueError: for anything else in one of them.
    """

    license: str = "unknown"
    training_data: str = ""
    datasets: tuple[str, ...] = ()
    evaluation: Path | None = None
    samples: Index = 4


def model_card(repo: str, facts: ModelFacts, details: CardDetails, metrics: Sequence[str]) -> str:
    """The text of the card; `metrics` are the lines of a table, none without an evaluation."""
    parts = [
        front_matter(details),
        f"# {plain(repo.split('/')[-1])}",
        "A [FlowAR](https://arxiv.org/abs/2412.15205) model: class labels to images, coarse to fine.",
        f"![A column for each class]({PICTURE_FILE})" if details.samples else "",
        "## Load",
        "```python\nfrom flowar import FlowARPipeline\n\n"
        f'pipe = FlowARPipeline.from_pretrained("{repo}")\nimages = pipe([0], seed=0).images\n```',
        "## Model",
        "\n".join(["| part | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.parts.items())]),
        "## Training data",
        details.training_data or "Not stated.",
        "## Schedule",
        f"{f'`{facts.preset}`, u' if facts.preset else 'U'}nless a call says otherwise:",
        f"```text\n{facts.schedule}\n```",
        *(["## Evaluation", "\n".join(metrics), "All settings: [card.md](card.md)."] if metrics else []),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def front_matter(details: CardDetails) -> str:
    """The lines in YAML on top of the card, which the Hub reads."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=details.license,
        library_name="flowar",
        pipeline_tag="unconditional-image-generation",  # of the Hub's tasks the nearest
        tags=TAGS,
        datasets=[*details.datasets] or None,
    )
    return f"---\n{data.to_yaml()}\n---"
