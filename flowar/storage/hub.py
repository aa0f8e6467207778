"""Where pretrained models are: a folder, this package's own assets, or the Hugging Face Hub."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowar.errors import CheckpointError, first_line, shown
from flowar.system.arguments import check_path
from flowar.system.together import finish_saving

ASSETS = Path(__file__).parents[1] / "assets"
# What this package saves, and the autoencoders of diffusers, alone or as a part of a pipeline. Nothing pickled.
FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.safetensors"]
FILES += ["diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
# Where there are no weights among these: those that diffusers keeps in half precision.
VARIANTS = ["diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors"]
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def locate(
    source: str | Path,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The path that `source` means: a shipped model, a file or folder, or a Hub id, which is downloaded.

    Without a connection, with `local_files_only` or with HF_HUB_OFFLINE=1, the Hub's model is the one that was
    downloaded last. The token is the one that `hf auth login` kept, unless given.

    Raises:
        CheckpointError: if it is none of these, or the download fails.
        OSError: if a process was killed while it saved into the folder, and what it left to do cannot be done.
    """
    shipped, path = {path.name: path for path in shipped_models()}, check_path("model", source)
    if source in shipped:
        return shipped[str(source)]
    if os.path.exists(path):  # False also for a name too long for any file
        finish_saving(path)
        return path
    names = ", ".join(shipped) or "none"
    if not isinstance(source, str) or not HUB_ID.fullmatch(source):
        raise CheckpointError(
            f"model: expected a folder, a shipped model ({names}) or a Hub id, got {shown(str(source))}"
        )
    from huggingface_hub import snapshot_download

    def download(files: list[str]) -> Path:
        options: dict[str, Any] = {"token": token, "local_files_only": local_files_only}
        return Path(snapshot_download(source, revision=revision, cache_dir=cache_dir, allow_patterns=files, **options))

    try:
        with progress_on_terminals():
            path = download(FILES)
            return path if any(path.glob("**/*.safetensors")) else download(FILES + VARIANTS)
    except Exception as error:  # the Hub's errors, the network's and the disk's have no common base
        raise CheckpointError(f"{source}: no such folder, and {refusal(error, revision)}") from error


@contextmanager
def progress_on_terminals() -> Iterator[None]:
    """Hide the bars of the Hub's client unless stderr is a terminal: in a file they would be control characters."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not (sys.stderr and sys.stderr.isatty()) and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def refusal(error: BaseException, revision: str | None) -> str:
    """The reason why the Hub did not serve a request, or was not reached, in one line."""
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
