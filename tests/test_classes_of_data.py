"""A run takes its classes from the data, whatever else of the model is configured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_data import write_class_folders
from test_webdataset import write_tar
from training_runs import run_config

from flowar import FlowAR, FlowARConfig
from flowar.cli import main
from flowar.errors import DataError
from flowar.system.ranks import Ranks
from flowar.training.config import ValidationConfig
from flowar.training.trainer import TrainingRun, train

pytestmark = pytest.mark.usefixtures("without_tensorboard")

SMALL = {"ar_width": 32, "ar_depth": 2, "ar_heads": 2, "flow_width": 64, "flow_depth": 1}


def trained(data: Path, output: Path, **model: Any) -> FlowARConfig:
    """The configuration of a model after a step on images of 8x8."""
    config = run_config(
        data, output, model=FlowARConfig(**{**SMALL, **model}), optim={"steps": 1, "batch_size": 2, "warmup_steps": 0}
    )
    return FlowAR.from_pretrained(train(replace(config, data=replace(config.data, image_size=8)))).config


@pytest.mark.parametrize("said", [{}, {"num_classes": 2}, {"num_classes": 2, "class_names": ("cats", "dogs")}])
def test_folders(tmp_path: Path, said: dict[str, Any]) -> None:
    config = trained(write_class_folders(tmp_path / "images"), tmp_path / "run", **said)
    assert (config.num_classes, config.class_names) == (2, ("cats", "dogs"))
    written = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert (written["num_classes"], written["class_names"]) == (2, ["cats", "dogs"])


@pytest.mark.parametrize(("said", "classes"), [({}, 6), ({"num_classes": 9}, 9)])
def test_labels_without_names_may_be_those_of_some_classes(tmp_path: Path, said: dict[str, Any], classes: int) -> None:
    members: dict[str, bytes] = {}
    for index, path in enumerate(sorted(write_class_folders(tmp_path / "images").rglob("*.png"))):
        members |= {f"{index}.png": path.read_bytes(), f"{index}.cls": str(2 * index + 1).encode()}
    config = trained(write_tar(tmp_path / "shard.tar", members), tmp_path / "run", **said)
    assert (config.num_classes, config.class_names) == (classes, ())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"num_classes": 5}, r"num_classes: expected 2 for .*images \(cats, dogs\), got 5"),
        ({"num_classes": 1000}, r"num_classes: expected 2 for .*images \(cats, dogs\), got 1000"),
        ({"num_classes": 1}, r"num_classes: expected at least 2 for .*images, got 1"),
        (
            {"num_classes": 2, "class_names": ("dogs", "cats")},
            r"class_names: expected those of .*images \(cats, dogs\), got dogs, cats",
        ),
    ],
)
def test_what_says_otherwise_is_refused(tmp_path: Path, model: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        trained(write_class_folders(tmp_path / "images"), tmp_path / "run", **model)
    assert not (tmp_path / "run" / "latents").exists()


def test_folders_without_class_folders_may_have_any_name(tmp_path: Path) -> None:
    for name in ("cats", "held"):
        write_class_folders(tmp_path / name).joinpath("cats").rename(tmp_path / f"{name}-alone")
    model, optim = FlowARConfig(**SMALL), {"batch_size": 2}
    config = run_config(tmp_path / "cats-alone", tmp_path / "run", model=model, optim=optim)
    validation = ValidationConfig(folder=str(tmp_path / "held-alone"))
    config = replace(config, validation=validation, data=replace(config.data, image_size=8))
    run = TrainingRun(config, Ranks(torch.device("cpu")))
    assert run.state.model.config.class_names == ("cats-alone",)


def test_the_configuration_of_a_run_is_one_of_another(tmp_path: Path) -> None:
    photos, first = write_class_folders(tmp_path / "images"), tmp_path / "first"
    model = [f"--model.{name}={value}" for name, value in SMALL.items()]
    rest = ["--optim.steps=1", "--optim.batch_size=2", "--sample_every=0", "--data.image_size=8"]
    main(["train", f"--data.folder={photos}", "--data.tokenizer=pixel:2", f"--output={first}", *model, *rest])
    main(["train", f"--config={first / 'config.json'}", f"--output={tmp_path / 'second'}"])
    assert FlowAR.from_pretrained(tmp_path / "second" / "model").config.class_names == ("cats", "dogs")


def test_names_with_control_characters_are_refused(tmp_path: Path) -> None:
    """Before anything is encoded: a model keeps the names of its classes."""
    write_class_folders(tmp_path / "photos")
    (tmp_path / "photos" / "cats").rename(tmp_path / "photos" / "cats\n\x1b[31m")
    message = r"photos: class_names: \[0\]: expected text without control characters, got 'cats\\n\\x1b\[31m'"
    with pytest.raises(DataError, match=message):
        train(run_config(tmp_path / "photos", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
