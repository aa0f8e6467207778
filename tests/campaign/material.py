"""The files that the commands read: small, valid, and where a command makes them, made by it."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch
import yaml
from conftest import recording, small_model
from PIL import Image
from test_data import idx_bytes

from campaign.commands import COMMANDS, Command
from campaign.process import run
from flowar import FlowARPipeline, Schedule
from flowar.evaluation.fashion_classifier import FashionClassifier
from flowar.storage.published import published_buffers
from flowar.storage.weights import save_tensors
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.pixel import PixelTokenizer

SIDE, STRIDE, CLASSES, EACH = 28, 7, 3, 4


def write_material(folder: Path) -> None:
    """Write all that a command of `COMMANDS` reads to `folder`/work."""
    work = folder / "work"
    work.mkdir(parents=True)
    torch.manual_seed(0)
    pictures = np.random.default_rng(0).integers(0, 256, (CLASSES * EACH, SIDE, SIDE), np.uint8)
    write_pictures(work, pictures)
    write_models(work)
    Schedule.published(2, 3.0, (0.0, 0.9)).save(work / "schedule.json")

    named = {str(command): command for command in COMMANDS}
    options = named["train on idx files"].options | {"optim.betas": "[0.9, 0.95]"}
    (work / "train.yaml").write_text(yaml.safe_dump(nested(options)))
    make(folder, named["reference"].with_option("output", "reference.safetensors"))
    make(folder, named["evaluate a model"])
    make(folder, named["evaluate a model"].with_option("output", "other_evaluation").with_option("seed", 100))
    make(folder, named["encode"].with_option("latents", "store"))
    make(folder, named["sweep"])
    make(folder, named["train on idx files"].with_option("output", "run"))
    make(folder, named["train-tokenizer"].with_option("output", "tokenizer_run"))
    for begun in ("run", "tokenizer_run"):
        *_, last = sorted((work / begun / "checkpoints").iterdir())
        shutil.rmtree(last)  # so that there is something left to do


def write_pictures(work: Path, pictures: np.ndarray) -> None:
    """Write the same pictures [N, H, W] in every form in which data sets come, and some to edit."""
    labels = np.arange(len(pictures), dtype=np.uint8) % CLASSES
    (work / "idx").mkdir()
    for split in ("train", "t10k"):
        (work / f"idx/{split}-images-idx3-ubyte").write_bytes(idx_bytes(pictures))
        (work / f"idx/{split}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    for index, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        for path in (work / f"folders/class{label}/{index}.png", work / f"flat/{index}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    for tar, start in (("tars/0.tar", 0), ("tars/1.tar", len(pictures) // 2)):
        (work / tar).parent.mkdir(exist_ok=True)
        with tarfile.open(work / tar, "w") as archive:
            for index in range(start, start + len(pictures) // 2):
                add(archive, f"{index:04}.png", (work / f"flat/{index}.png").read_bytes())
                add(archive, f"{index:04}.cls", str(labels[index]).encode())
    np.savez(work / "images.npz", arr_0=pictures[..., None], arr_1=labels)
    Image.fromarray(pictures[0]).save(work / "picture.png")
    Image.fromarray(pictures[0, :STRIDE, :STRIDE]).save(work / "small.png")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[: SIDE // 2] = 255
    Image.fromarray(mask).save(work / "mask.png")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def write_models(work: Path) -> None:
    """Write a model of such pictures, a tokenizer with weights, a judge, and a checkpoint as the authors have them."""
    tokenizer = PixelTokenizer(image_channels=1, stride=STRIDE)
    channels = STRIDE**2
    names = tuple(f"class{label}" for label in range(CLASSES))
    fields = {"num_classes": CLASSES, "class_names": names, "tokenizer": tokenizer.record(), "num_inference_steps": 2}
    FlowARPipeline(small_model(latent_channels=channels, **fields), tokenizer).save_pretrained(work / "model")
    ConvTokenizer(1, 2, (8, 16)).eval().save_pretrained(work / "tokenizer")
    save_tensors(work / "classifier.safetensors", FashionClassifier().state_dict())
    recorded = recording("tiny_attn_mlp")
    tables = {name: torch.zeros(shape) for name, shape in published_buffers(recorded.config()).items()}
    torch.save(recorded.state_dict() | tables, work / "published.pth")


def nested(options: dict[str, str]) -> dict[str, object]:
    """Options by dotted names as the tree that a YAML file holds."""
    tree: dict[str, object] = {}
    for name, value in options.items():
        *parts, last = name.split(".")
        place = tree
        for part in parts:
            place = place.setdefault(part, {})  # type: ignore[assignment]
        place[last] = yaml.safe_load(value)
    return tree


def make(folder: Path, command: Command) -> None:
    """Run a command that makes some of the material."""
    outcome = run(command.arguments, folder)
    if outcome.code:
        raise RuntimeError(f"{command}: exit code {outcome.code}\n{outcome.err.decode()}")


def copy(material: Path, command: Command, folder: Path) -> Path:
    """Copy what `command` reads to `folder`/work, which is returned."""
    work = folder / "work"
    work.mkdir(parents=True)
    for name in command.files.split():
        source, target = material / "work" / name, work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return work
