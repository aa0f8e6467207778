"""Where pretrained models are: a folder, this package's own assets, or the Hugging Face Hub, which takes them too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowar.errors import CheckpointError, FlowARError, first_line

ASSETS = Path(__file__).parents[1] / "assets"
# What this package saves, and the autoencoders of diffusers, alone or as a part of a pipeline. Nothing pickled.
FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.safetensors"]
FILES += ["diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def locate(source: str | Path, revision: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """The path that `source` means: a shipped model, a file or folder, or a Hub id, which is downloaded.

    Without a connection, or with HF_HUB_OFFLINE=1, the Hub's model is the one that was downloaded last.

    Raises:
        CheckpointError: if it is none of these, or the download fails.
    """
    shipped = {path.name: path for path in shipped_models()}
    if source in shipped:
        return shipped[str(source)]
    if Path(source).exists():
        return Path(source)
    names = ", ".join(shipped) or "none"
    if not isinstance(source, str) or not HUB_ID.fullmatch(source):
        raise CheckpointError(f"model: expected a folder, a shipped model ({names}) or a Hub id, got {str(source)!r}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, cache_dir=cache_dir, allow_patterns=FILES))
    except Exception as error:  # the Hub's errors, the network's and the disk's have no common base
        raise CheckpointError(f"{source}: no such folder, and {refusal(error, revision)}") from error


@dataclass(frozen=True)
class Repository:
    """Where to upload a model on the Hub.

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
        """Upload `files`, by their names there, in one commit, and give its address. What else is there stays.

        Raises:
            FlowARError: if the Hub refuses or cannot be reached.
        """
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(token=self.token)
        additions = [CommitOperationAdd(name, path) for name, path in files.items()]
        try:
            api.create_repo(self.name, private=self.private, exist_ok=True)
            if self.revision is not None:
                api.create_branch(self.name, branch=self.revision, exist_ok=True)
            done = api.create_commit(self.name, additions, commit_message=commit_message, revision=self.revision)
        except Exception as error:  # as above
            raise FlowARError(f"{self.name}: not uploaded, as {refusal(error, self.revision)}") from error
        return done.commit_url


def refusal(error: BaseException, revision: str | None) -> str:
    """What the Hub, or the way to it, has against a request, in one line."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"neither the cache nor the Hub gives one: {first_line(error.__cause__ or error)}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the Hub has no revision {revision or 'main'} of it"
    if isinstance(error, errors.GatedRepoError):
        return "the Hub gives it only to those who accepted its terms there and log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hub has no such repository, or none that your token opens (HF_TOKEN, `hf auth login`)"
    return f"asking the Hub failed: {first_line(error)}"


def shipped_models() -> list[Path]:
    """Folders of the models that came with the package."""
    return sorted(path.parent for path in ASSETS.glob("*/config.json"))
