"""A pipeline to the Hugging Face Hub: its files, its card, and the repository that takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from flowar.errors import FlowARError
from flowar.evaluation.card import metrics_table, read_card, write_card
from flowar.images.grid import image_grid
from flowar.pipeline.facts import parameters
from flowar.sharing.model_card import CARD_FILE, PICTURE_FILE, CardDetails, ModelFacts, model_card
from flowar.storage.hub import HUB_ID, progress_on_terminals, refusal
from flowar.storage.weights import fingerprint
from flowar.system.files import write_aside
from flowar.system.markdown import plain

if TYPE_CHECKING:
    from flowar.pipeline import FlowARPipeline

PICTURED_CLASSES, NAMED_CLASSES = 10, 20  # a model may have a thousand


@dataclass(frozen=True)
class Repository:
    """A place on the Hub to upload a model to.

    Attributes:
        name: "user/name"; made if there is none.
        revision: branch to commit to, made if there is none; the main one if left out.
        private: whether a repository that is made is; if left out, as the user's or organisation's default says.
        token: with the right to write; that of HF_TOKEN or `hf auth login` if left out.

    Raises:
        FlowARError: for a name that no repository can have, or without a token.
    """

    name: str
    revision: str | None = None
    private: bool | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not HUB_ID.fullmatch(self.name):
            raise FlowARError(f"repo: expected user/name, got {self.name!r}")
        from huggingface_hub import get_token

        if not (self.token or get_token()):
            raise FlowARError(
                f"{self.name}: expected a token to write with, found none; set HF_TOKEN, or hf auth login"
            )

    def upload(self, files: Mapping[str, Path], commit_message: str = "Upload model") -> str:
        """Upload `files`, by their names there, in one commit, and give its address. Other files there stay.

        Raises:
            FlowARError: if the Hub refuses or cannot be reached.
        """
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(token=self.token)
        additions = [CommitOperationAdd(name, path) for name, path in files.items()]
        try:
            with progress_on_terminals():
                api.create_repo(self.name, private=self.private, exist_ok=True)
                if self.revision is not None:
                    api.create_branch(self.name, branch=self.revision, exist_ok=True)
                done = api.create_commit(self.name, additions, commit_message=commit_message, revision=self.revision)
        except Exception as error:  # the Hub's errors, the network's and the disk's have no common base
            raise FlowARError(f"{self.name}: not uploaded, as {refusal(error, self.revision)}") from error
        return done.commit_url


def push_pipeline(
    pipeline: FlowARPipeline,
    repository: Repository,
    details: CardDetails,
    commit_message: str,
    dtype: torch.dtype | None,
) -> str:
    """Upload model, tokenizer and card, and give the address of the commit; `dtype` is that of the stored weights.

    Raises:
        FlowARError: for an evaluation of another model, or if the Hub refuses or cannot be reached.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        pipeline.save_pretrained(folder, dtype)
        write_model_card(folder, pipeline, repository.name, details)
        return repository.upload({path.name: path for path in folder.iterdir()}, commit_message)


def write_model_card(folder: Path, pipeline: FlowARPipeline, repo: str, details: CardDetails) -> None:
    """Write README.md into `folder`, with what it shows and links to beside it.

    Raises:
        FlowARError: for an evaluation of other weights, or a file that is no evaluation card.
        OSError: if reading or writing fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = fingerprint(pipeline.model.state_dict())
    metrics = copy_evaluation(folder, details.evaluation, weights) if details.evaluation else []
    if details.samples:
        draw_samples(folder / PICTURE_FILE, pipeline, details.samples)
    text = model_card(repo, model_facts(pipeline, weights), details, metrics)
    write_aside(folder / CARD_FILE, lambda aside: aside.write_text(text, encoding="utf-8"))


def model_facts(pipeline: FlowARPipeline, weights: str) -> ModelFacts:
    """The facts about a pipeline's model, whose weights have the hash `weights`."""
    config, tokenizer, (width, height) = pipeline.config, pipeline.tokenizer, pipeline.picture_size
    names = ", ".join(map(plain, config.class_names[:NAMED_CLASSES])) + (
        ", ..." if config.num_classes > NAMED_CLASSES else ""
    )
    parts = {
        "images": f"{height}x{width}, {'grey' if tokenizer.image_channels == 1 else 'RGB'}",
        "classes": f"{config.num_classes}: {names}" if config.class_names else f"{config.num_classes}",
        "tokenizer": f"{tokenizer.kind}, {config.latent_channels} channels at stride {tokenizer.stride}",
        "scales": ", ".join(f"{rows}x{columns}" for rows, columns in config.grids),
        "AR transformer": f"width {config.ar_width}, {config.ar_depth} blocks, {config.ar_heads} heads",
        "flow transformer": f"width {config.flow_width}, {config.flow_depth} blocks (`{config.flow_block}`), "
        f"{config.flow_heads} heads",
        "parameters": f"{parameters(pipeline.model):,}, and {parameters(tokenizer):,} of the tokenizer",
        "hash of the weights": f"`{weights}`",
    }
    return ModelFacts(parts, pipeline.model.schedule().describe(len(config.grids)), config.schedule)


def draw_samples(path: Path, pipeline: FlowARPipeline, per_class: int) -> None:
    """Write a picture with a column for each of the first classes, drawn with seed 0."""
    labels = [*range(min(PICTURED_CLASSES, pipeline.model.config.num_classes))]
    pipeline.check_count("samples", len(labels) * per_class)
    picture = image_grid(pipeline(labels * per_class, seed=0).images, len(labels))
    write_aside(path, lambda aside: picture.save(aside, "PNG"))


def copy_evaluation(folder: Path, source: Path, weights: str) -> list[str]:
    """Copy an evaluation card into `folder`, and give its metrics as the lines of a table.

    Raises:
        FlowARError: unless it is a card of images that a model with the hash `weights` drew.
    """
    card = read_card(source)
    found = card["settings"].get("model", {}).get("weights", "none")
    if found != weights:
        raise FlowARError(f"evaluation: expected a card of this model (weights {weights}), got weights {found}")
    write_card(folder, card)
    return metrics_table(card)
