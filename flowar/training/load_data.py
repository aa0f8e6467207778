"""The data that a run trains on: a store of latents, and the tokenizer that made them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flowar.config import require
from flowar.data.image_source import ImageSource
from flowar.data.sources import open_images
from flowar.errors import DataError
from flowar.system.lock import locked, tidy
from flowar.system.rules import Name
from flowar.system.structured import as_record
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import load_tokenizer
from flowar.training.config import ValidationConfig
from flowar.training.data_config import DataConfig
from flowar.training.encoding import encode, open_current
from flowar.training.held_out import HeldOut
from flowar.training.latent_store import TOKENIZER_FOLDER, LatentStore, check_maker
from flowar.training.pool import held_out_images, without
from flowar.training.tokenizers import tokenizer_for_training

MOST_LISTED = 10  # names of classes in a message


def load_data(
    config: DataConfig, output: Path, num_classes: int | None = None, class_names: Sequence[str] = ()
) -> tuple[LatentStore, Tokenizer]:
    """Open the latents of the configured images, encoded first if they are missing, and the tokenizer that made them.

    Args:
        config: the images, their tokenizer and the store.
        output: the run folder, which gets the latents if `config` names no other folder.
        num_classes: the number of classes of a model that has a say of its own; the classes of the data must fit.
        class_names: likewise their names.

    Raises:
        ValueError: for images, a tokenizer or latents that cannot be used or do not belong together, and for classes
            that are not those of the model.
        OSError: if writing fails; what has been encoded stays.
    """
    folder = Path(config.latents) if config.latents else output / "latents"
    if config.folder is None:
        store = LatentStore.open(folder)
        check_maker(folder, store.key, stored_tokenizer(config, folder) or load_tokenizer(str(config.tokenizer)))
    else:
        skip_bad = config.on_bad_image == "skip"
        source = open_images(config.folder, config.split, config.image_size, config.image_channels, skip_bad)
        as_record([*source.class_names], list[Name], f"{config.folder}: class_names", DataError)
        check_classes(source, num_classes, class_names, config.folder)
        tokenizer = stored_tokenizer(config, folder) or tokenizer_for_training(str(config.tokenizer), source, skip_bad)
        current = open_current(folder, source, tokenizer, config)
        if current is not None:
            tidy(folder)
        with locked(folder) if current is None else nullcontext():
            store = encode(folder, source, tokenizer, config) if current is None else current
    check_classes(store, num_classes, class_names, folder)
    return store, store.load_tokenizer()  # whose statistics are rounded, however the run started


def load_held_out(
    validation: ValidationConfig, data: DataConfig, store: LatentStore, output: Path
) -> tuple[HeldOut | None, Tensor]:
    """Open the held-out images, if there are any, and number the images of `store` that are left to train on.

    Args:
        validation: the images to hold out.
        data: the configuration that `store` was made by.
        store: the store of all images of the run.
        output: the run folder. It gets the latents of `validation.folder`, which are encoded as `data` says, but
            neither flipped nor cropped at random.

    Raises:
        ValueError: for images that cannot be used, or are not of the classes and the size of those of `store`.
        OSError: if writing fails.
    """
    every = torch.arange(len(store))
    if validation.share:
        images = held_out_images(store.labels, validation.share)
        return HeldOut.evenly_spaced(store, images, validation.images), without(images, len(store))
    if validation.folder is None:
        return None, every
    elsewhere = replace(
        data,
        folder=validation.folder,
        split="t10k",
        tokenizer=str(store.folder / TOKENIZER_FOLDER),
        latents=str(output / "held_out_latents"),
        flips=False,
        crops=0,
    )
    held_out, _ = load_data(elsewhere, output)
    alone = len(store.class_names) == len(held_out.class_names) == 1  # which a folder without class folders names
    for name, expected, got, same in (
        ("classes", store.class_names, held_out.class_names, alone or held_out.class_names == store.class_names),
        ("latents of", store.grid, held_out.grid, held_out.grid == store.grid),
    ):
        require("validation", f"{name} {expected} in {validation.folder}", got, same)
    return HeldOut.evenly_spaced(held_out, torch.arange(len(held_out)), validation.images), every


def stored_tokenizer(config: DataConfig, folder: Path) -> Tokenizer | None:
    """The tokenizer of the store in `folder`, if it was begun there and `config` names none or a pixel tokenizer.

    A pixel tokenizer is not made anew, as that would take a look at all images, and find others in some that changed.
    """
    name = config.tokenizer
    if not any(folder.glob("shard_*")) or (name and not name.startswith("pixel:")):
        return None
    tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER)
    own = f"{tokenizer.kind}:{tokenizer.stride}"
    if name not in (None, own):
        raise DataError(f"{folder}: made by another tokenizer; expected {name}, got {own}")
    return tokenizer


def count_classes(data: ImageSource | LatentStore) -> int:
    """The classes that names or else labels tell of."""
    return len(data.class_names) or int(data.labels.max()) + 1


def check_classes(
    data: ImageSource | LatentStore, num_classes: int | None, class_names: Sequence[str], where: str | Path
) -> None:
    """Check that the classes of `data` are those of a model, as far as either says: nameless ones may be fewer.

    Raises:
        DataError: naming both.
    """
    count, names = count_classes(data), listed(data.class_names)
    if num_classes is not None and num_classes < count:
        raise DataError(f"num_classes: expected at least {count} for {where}, got {num_classes}")
    if num_classes is not None and names and num_classes > count:
        raise DataError(f"num_classes: expected {count} for {where} ({names}), got {num_classes}")
    if names and class_names and tuple(class_names) != data.class_names:
        raise DataError(f"class_names: expected those of {where} ({names}), got {listed(class_names)}")


def listed(names: Sequence[str]) -> str:
    """Names in a message, the first ones of many."""
    return ", ".join(names[:MOST_LISTED]) + (", ..." if len(names) > MOST_LISTED else "")
