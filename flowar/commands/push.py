"""`flowar push`: a model's folder to the Hugging Face Hub, with a card."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from flowar.commands import say
from flowar.system.fields import checks_fields
from flowar.system.rules import Index, Place


@dataclass
@checks_fields
class Options:
    """Upload a model and its tokenizer to the Hugging Face Hub: flowar push FOLDER USER/NAME.

    The token comes from HF_TOKEN or `hf auth login`.

    Attributes:
        folder: folder of the model and its tokenizer, or a shipped name; also as the first word. A README.md in it is
            uploaded instead of a card made of the options below.
        repo: user/name on the Hub, made if there is none; also as the second word.
        revision: branch to commit to, made if there is none; the main one if left out.
        private: whether to make a new repository private.
        license: licence of the weights by the Hub's identifier, such as apache-2.0.
        training_data: description of the training data, in a sentence or more of Markdown.
        datasets: Hub ids of the training data.
        evaluation: card of flowar evaluate, a file or its folder, which is uploaded as well.
        samples: images per class in the card's picture, of the first ten classes; 0 for no picture.
    """

    positional: ClassVar[tuple[str, str]] = ("folder", "repo")

    folder: Place
    repo: str
    revision: str | None = None
    private: bool = False
    license: str = "unknown"
    training_data: str = ""
    datasets: tuple[str, ...] = ()
    evaluation: Path | None = None
    samples: Index = 4


def run(options: Options) -> None:
    """Upload the files as they are, and print where they went."""
    from flowar.pipeline import FlowARPipeline
    from flowar.sharing.model_card import CARD_FILE, CardDetails
    from flowar.sharing.push import Repository, write_model_card
    from flowar.storage.hub import FILES, locate

    repository = Repository(options.repo, options.revision, options.private or None)
    details = CardDetails(**{each.name: getattr(options, each.name) for each in fields(CardDetails)})
    folder = locate(options.folder)
    pipeline = FlowARPipeline.from_pretrained(folder)  # what cannot be loaded is not uploaded
    files = {name: folder / name for name in [*FILES, CARD_FILE] if (folder / name).is_file()}
    if CARD_FILE in files and details != CardDetails():
        raise ValueError(f"{folder / CARD_FILE}: expected no card beside options that are about a card to write")
    with TemporaryDirectory() as page:
        if CARD_FILE not in files:
            write_model_card(Path(page), pipeline, options.repo, details)
        files |= {path.name: path for path in Path(page).iterdir()}
        say(f"{len(files)} files in {repository.upload(files)}")
