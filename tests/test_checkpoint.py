"""Models to and from files: round trips, the published checkpoints, and files that cannot be used."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, error, recording, small_model
from conftest import TINY as TINY_MODELS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowar import FlowAR
from flowar.errors import CheckpointError
from flowar.storage import checkpoint, hub, weights
from flowar.storage.published import published_buffers, published_names

# Names and shapes of the authors' three files, and of the small models of the recordings.
PUBLISHED = json.loads((FIXTURES / "published_checkpoints.json").read_text())
SIZES = {"flowar_small": ("S", 171718072), "flowar_large": ("L", 586862912), "flowar_huge": ("H", 1913316880)}
PUBLISHED |= {
    name: {
        "parameters": recording(name).metadata["parameters"],
        "buffers": published_buffers(recording(name).config()),
    }
    for name in TINY_MODELS
}
TINY = "tiny_attn_cross_mlp"


def same_model(a: FlowAR, b: FlowAR) -> bool:
    return a.config == b.config and all(map(torch.equal, a.parameters(), b.parameters()))


def one_line(raised: pytest.ExceptionInfo[BaseException]) -> bool:
    return "\n" not in str(raised.value)


class TestSaving:
    def test_round_trip(self, tmp_path: Path) -> None:
        model = small_model(flow_block="attn_cross_mlp", num_classes=2, class_names=("cat", "dog"), latent_size=(4, 6))
        model.save_pretrained(tmp_path / "new" / "folder")
        loaded = FlowAR.from_pretrained(tmp_path / "new" / "folder")
        assert same_model(loaded, model)
        assert not loaded.training
        assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
            "config.json",
            "model.safetensors",
        ]
        with safe_open(tmp_path / "new" / "folder" / "model.safetensors", "pt") as file:
            metadata = file.metadata()
        assert metadata["format"] == "pt"
        assert json.loads(metadata["flowar"]) == json.loads((tmp_path / "new" / "folder" / "config.json").read_text())

    def test_single_file(self, tmp_path: Path) -> None:
        small_model().save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
        assert same_model(FlowAR.from_pretrained(tmp_path / "other.safetensors"), small_model())

    def test_stored_in_half_loaded_in_float32(self, tmp_path: Path) -> None:
        model = small_model()
        model.save_pretrained(tmp_path, torch.float16)
        assert all(tensor.dtype == torch.float16 for tensor in load_file(tmp_path / "model.safetensors").values())
        loaded = FlowAR.from_pretrained(tmp_path)
        for (name, parameter), expected in zip(loaded.named_parameters(), model.parameters(), strict=True):
            assert parameter.dtype == torch.float32, name
            torch.testing.assert_close(parameter, expected, rtol=1e-3, atol=1e-6)
        assert next(FlowAR.from_pretrained(tmp_path, dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16

    def test_loaded_model_samples_and_trains(self, tmp_path: Path) -> None:
        """Its tables were made on the CPU, though its parameters started on the meta device."""
        model = small_model()
        model.save_pretrained(tmp_path)
        loaded = FlowAR.from_pretrained(tmp_path)
        assert torch.equal(loaded.sample([0, 1], 3, 2.0), model.sample([0, 1], 3, 2.0))
        loaded.train().loss(torch.randn(2, 4, 4, 4), torch.tensor([0, 1])).loss.backward()

    def test_full_disk_leaves_what_was_there(self, tmp_path: Path, full_disk: None) -> None:
        (tmp_path / "model.safetensors").write_text("before")
        with pytest.raises(OSError, match="File too large"):
            small_model().save_pretrained(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
        assert (tmp_path / "model.safetensors").read_text() == "before"


class TestSources:
    def test_shipped_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        small_model().save_pretrained(tmp_path / "flowar-test")
        monkeypatch.setattr(hub, "ASSETS", tmp_path)
        (tmp_path / "elsewhere" / "flowar-test").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "elsewhere")  # a folder of that name is found as ./flowar-test alone
        assert same_model(FlowAR.from_pretrained("flowar-test"), small_model())
        with pytest.raises(CheckpointError, match=r"config.json: expected a JSON object"):
            FlowAR.from_pretrained("./flowar-test")
        with pytest.raises(CheckpointError, match=r"a shipped model \(flowar-test\) or a Hub id, got 'flowar-toast'"):
            FlowAR.from_pretrained("flowar-toast")

    def test_hub_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        small_model().save_pretrained(tmp_path)
        asked: dict[str, Any] = {}

        def snapshot_download(repo: str, **options: Any) -> str:
            asked.update(options, repo=repo)
            return str(tmp_path)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        model = FlowAR.from_pretrained("some.user/some-model", revision="v1", cache_dir="/cache")
        assert same_model(model, small_model())
        assert {"config.json", "model.safetensors"} < set(asked.pop("allow_patterns"))
        where = {"repo": "some.user/some-model", "revision": "v1", "cache_dir": "/cache"}
        assert asked == where | {"token": None, "local_files_only": False}

    def test_hub_without_the_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def snapshot_download(repo: str, **options: Any) -> str:
            raise RuntimeError("404 Not Found\nfor some reason")

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        with pytest.raises(CheckpointError, match=r"user/model: no such folder.*: 404 Not Found") as raised:
            FlowAR.from_pretrained("user/model")
        assert one_line(raised)

    @pytest.mark.parametrize("name", ["/no/such/folder", "a/b/c", "no folder", "../x", Path("user/model")])
    def test_no_such_place(self, name: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)  # beside which there is nothing
        with pytest.raises(CheckpointError, match=r"expected a folder, a shipped model .* or a Hub id, got"):
            FlowAR.from_pretrained(name)


def damaged_folders() -> dict[str, tuple[Callable[[Path], object], str]]:
    def edit_config(**changes: Any) -> Callable[[Path], object]:
        def edit(folder: Path) -> None:
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | changes))

        return edit

    def edit_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
        def edit(folder: Path) -> None:
            tensors = load_file(folder / "model.safetensors")
            change(tensors)
            save_file(tensors, folder / "model.safetensors")

        return edit

    def truncate(share: float) -> Callable[[Path], object]:
        def cut(folder: Path) -> None:
            content = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(content[: int(len(content) * share)])

        return cut

    name = "ar_transformer.middle_norm.weight"
    return {
        "empty folder": (lambda f: [path.unlink() for path in f.iterdir()], "config.json: expected a JSON object"),
        "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: expected a safetensors file"),
        "no json": (lambda f: (f / "config.json").write_text("{"), "config.json: expected a JSON object"),
        "no object": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object, got list"),
        "binary json": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json: expected a JSON object"),
        "unknown field": (edit_config(color="red"), "unknown fields color"),
        "impossible field": (edit_config(ar_depth=3), "ar_depth: expected a positive even integer, got 3"),
        "other size": (edit_config(ar_width=64), "tensor .*: expected shape"),
        "other grid": (
            edit_config(latent_size=[8, 8], scales=[1, 2, 4, 8]),
            "expected the grids it was trained on, 1x1, 2x2, 4x4, got 1x1, 2x2, 4x4, 8x8; to use another grid",
        ),
        "garbage": (lambda f: (f / "model.safetensors").write_bytes(b"junk" * 100), "expected a safetensors file, but"),
        "truncated header": (truncate(0.001), "expected a safetensors file, but"),
        "truncated": (truncate(0.9), "expected a safetensors file, but"),
        "missing": (edit_weights(lambda t: t.pop(name)), f"missing tensor {name}"),
        "extra": (edit_weights(lambda t: t.update(more=torch.zeros(1))), "unexpected tensor more"),
        "misshapen": (
            edit_weights(lambda t: t.update({name: torch.zeros(3)})),
            rf"tensor {name}: expected shape \[32\], got \[3\]",
        ),
        "integers": (
            edit_weights(lambda t: t.update({name: torch.zeros(32, dtype=torch.int64)})),
            f"tensor {name}: expected floats, got torch.int64",
        ),
    }


@pytest.mark.parametrize(("damage", "message"), damaged_folders().values(), ids=damaged_folders())
def test_damaged_folder(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    FlowAR.from_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as raised:
        FlowAR.from_pretrained(tmp_path)
    assert one_line(raised)


def test_another_grid_of_as_many_tokens(tmp_path: Path) -> None:
    """No shape tells rows from columns; the configuration beside the weights does."""
    small_model(latent_size=(2, 8)).save_pretrained(tmp_path)
    turned = FlowAR.from_pretrained(tmp_path).config.to_dict() | {"latent_size": [8, 2], "scales": None}
    (tmp_path / "config.json").write_text(json.dumps(turned))
    with pytest.raises(CheckpointError, match=r"trained on, 1x1, 1x2, 1x4, 2x8, got 1x1, 2x1, 4x1, 8x2; to use"):
        FlowAR.from_pretrained(tmp_path)


def test_file_without_configuration(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="expected a FlowAR configuration in the metadata"):
        FlowAR.from_pretrained(tmp_path / "x.safetensors")


def published_state(size: str, device: str = "meta") -> dict[str, Tensor]:
    tensors = PUBLISHED[size]["parameters"] | PUBLISHED[size]["buffers"]
    return {name: torch.empty(shape, device=device) for name, shape in tensors.items()}


class TestPublishedNames:
    @pytest.mark.parametrize("buffers", [True, False])
    @pytest.mark.parametrize("size", SIZES)
    def test_every_tensor_is_used(self, size: str, buffers: bool) -> None:
        state = published_state(size)
        if not buffers:
            state = {name: state[name] for name in PUBLISHED[size]["parameters"]}
        model = FlowAR.from_published(state)
        preset, count = SIZES[size]
        expected = checkpoint.FlowARConfig.preset(preset, tokenizer=model.config.tokenizer)
        assert model.config == expected
        assert sum(parameter.numel() for parameter in model.parameters()) == count
        names = [theirs for ours, _ in model.named_parameters() for theirs in published_names(ours, model.config)]
        assert sorted(names) == sorted(PUBLISHED[size]["parameters"])

    @pytest.mark.parametrize("size", PUBLISHED)
    def test_one_tensor_missing(self, size: str) -> None:
        for name in names_to_damage(size, PUBLISHED[size]["parameters"]):
            state = published_state(size)
            del state[name]
            with pytest.raises(CheckpointError, match=rf"^checkpoint: (missing|expected).*{name_in(name)}"):
                FlowAR.from_published(state)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize(
        "name", ["surprise", "encoder_blocks.99.attn.qkv.weight", "flownet.res_blocks.0.attn.gate", "mask2"]
    )
    def test_one_tensor_too_many(self, size: str, name: str) -> None:
        state = published_state(size) | {name: torch.empty(1, device="meta")}
        with pytest.raises(CheckpointError, match=f"^checkpoint: unexpected tensor {name}$"):
            FlowAR.from_published(state)

    @pytest.mark.parametrize("size", PUBLISHED)
    def test_one_tensor_misshapen(self, size: str) -> None:
        for name in names_to_damage(size, PUBLISHED[size]["parameters"] | PUBLISHED[size]["buffers"]):
            state = published_state(size)
            shape = [*state[name].shape, 1]
            state[name] = torch.empty(shape, device="meta")
            with pytest.raises(CheckpointError) as raised:
                FlowAR.from_published(state)
            assert name_in(name) in str(raised.value).replace("\\", "")
            assert one_line(raised)

    @pytest.mark.parametrize("name", ["encoder_pos_embed_learned", "z_proj.weight", "flownet.cond_embed.bias"])
    def test_damaged_tensor_is_not_taken_for_another_size(self, name: str) -> None:
        """The configuration is read from several tensors: one that disagrees is the culprit."""
        state = published_state("flowar_small")
        state[name] = torch.empty([2 * side for side in state[name].shape], device="meta")
        with pytest.raises(CheckpointError, match=f"^checkpoint: tensor {name}: expected shape"):
            FlowAR.from_published(state)

    def test_other_models_tensors(self) -> None:
        with pytest.raises(CheckpointError, match="expected the tensors of a published model"):
            FlowAR.from_published({"conv.weight": torch.zeros(3)})


def names_to_damage(size: str, names: dict[str, Any]) -> list[str]:
    """One tensor of every kind (numbers apart); a few of them for large models, which take longer."""
    kinds = {"".join(c for c in name if not c.isdigit()): name for name in names}
    return sorted(kinds.values())[:: 10 if size in SIZES else 1]


def name_in(name: str) -> str:
    """A tensor that the number of classes is read from can be reported before all others are compared."""
    return "class_emb" if name.startswith("class_emb") else name


def torch_file(path: Path, content: Any = None, **options: Any) -> Path:
    torch.save(recording(TINY).published() if content is None else content, path, **options)
    return path


class TestPublishedFiles:
    @pytest.mark.parametrize("key", [None, "model", "model_ema", "ema", "state_dict"])
    def test_nesting(self, key: str | None, tmp_path: Path) -> None:
        state = recording(TINY).published()
        content = state if key is None else {key: state, "epoch": 400, "args": argparse.Namespace(lr=1e-4)}
        loaded = FlowAR.from_published(torch_file(tmp_path / "x.pth", content))
        assert same_model(loaded, FlowAR.from_published(state))

    def test_averaged_weights_are_preferred(self, tmp_path: Path) -> None:
        state = recording(TINY).published()
        zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        loaded = FlowAR.from_published(torch_file(tmp_path / "x.pth", {"model": zeros, "model_ema": state}))
        assert same_model(loaded, FlowAR.from_published(state))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_low_precision_file(self, dtype: torch.dtype, tmp_path: Path) -> None:
        state = {name: tensor.to(dtype) for name, tensor in recording(TINY).published().items()}
        loaded = FlowAR.from_published(torch_file(tmp_path / "x.pth", state))
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        assert same_model(loaded, FlowAR.from_published({name: tensor.float() for name, tensor in state.items()}))
        assert next(FlowAR.from_published(state, dtype=dtype).parameters()).dtype == dtype

    def test_parameters_of_integers(self) -> None:
        with pytest.raises(ValueError, match=r"dtype: expected a floating dtype of torch, got torch\.int8"):
            FlowAR.from_published(recording(TINY).published(), dtype=torch.int8)

    def test_legacy_format(self, tmp_path: Path) -> None:
        path = torch_file(tmp_path / "x.pth", _use_new_zipfile_serialization=False)
        assert not zipfile.is_zipfile(path)
        assert same_model(FlowAR.from_published(path), FlowAR.from_published(recording(TINY).published()))

    def test_file_is_mapped_and_reopened_as_it_is_copied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pages that have been read stay resident while a mapping lives: no mapping serves more than its share."""
        path, mapped = torch_file(tmp_path / "x.pth"), []
        load = torch.load

        def watched(*arguments: Any, **options: Any) -> Any:
            mapped.append(options["mmap"])
            return load(*arguments, **options)

        monkeypatch.setattr(torch, "load", watched)
        FlowAR.from_published(path)
        assert mapped == [True] * 2  # for the shapes, and for all the bytes of so small a model
        monkeypatch.setattr(weights, "MAPPED_MINIMUM", 0)
        model = FlowAR.from_published(path)
        assert all(mapped)
        assert len(mapped) > 12
        groups = list(weights.parameter_groups(model))
        total = sum(parameter.nbytes for parameter in model.parameters())
        assert [name for group in groups for name, _ in group] == [name for name, _ in model.named_parameters()]
        for group in groups:
            assert sum(parameter.nbytes for _, parameter in group[:-1]) < weights.MAPPED_SHARE * total

    def test_converted_to_safetensors(self, tmp_path: Path) -> None:
        model = FlowAR.from_published(recording(TINY).published())
        model.save_pretrained(tmp_path)
        assert same_model(FlowAR.from_pretrained(tmp_path), model)

    def test_model_is_the_recorded_one(self, tmp_path: Path) -> None:
        recorded = recording("tiny_attn_mlp")
        model = FlowAR.from_published(torch_file(tmp_path / "x.pth", recorded.published()))
        assert model.config.ar_heads == recorded.metadata["config"]["ar_heads"]
        z = model.conditions(recorded["train.latents"], recorded["train.labels"])
        assert error(z, recorded["train.conditions"]) < 1e-4


def in_itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content |= {"model": content, "state_dict": content, "ema": content}
    return content


def shared(levels: int) -> dict[str, Any]:
    """Containers that hold each other so often that to follow every way would take for ever."""
    content: dict[str, Any] = {"x": 1}
    for _ in range(levels):
        content = {"model": content, "state_dict": content, **{f"ema{number}": content for number in range(20)}}
    return content


class TestForeignNames:
    """What training scripts leave: averages and weights, under many names; `zeros` stand for what is not wanted."""

    @pytest.fixture
    def state(self) -> dict[str, Tensor]:
        return recording(TINY).published()

    @pytest.fixture
    def zeros(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.zeros_like(tensor) for name, tensor in state.items()}

    def loaded(self, content: Any, tmp_path: Path, state: dict[str, Tensor]) -> bool:
        model = FlowAR.from_published(torch_file(tmp_path / "x.pth", content))
        return same_model(model, FlowAR.from_published(state))

    @pytest.mark.parametrize("nested", [False, True])
    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."])
    def test_wrappers(self, prefix: str, nested: bool, tmp_path: Path, state: dict[str, Tensor]) -> None:
        wrapped = {prefix + name: tensor for name, tensor in state.items()}
        assert self.loaded({"model": wrapped} if nested else wrapped, tmp_path, state)

    def test_wrappers_within(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        inner = {name.replace("flownet.", "flownet._orig_mod.", 1): tensor for name, tensor in state.items()}
        assert self.loaded(inner, tmp_path, state)

    @pytest.mark.parametrize(
        "key",
        [
            *("model_ema", "ema", "ema_model", "ema_state_dict", "model_ema_state_dict", "state_dict_ema"),
            *("params_ema", "ema_0.9999", "EMA", "averaged_model", "swa_model", "shadow"),
        ],
    )
    def test_averages(
        self, key: str, tmp_path: Path, state: dict[str, Tensor], zeros: dict[str, Tensor], caplog: Any
    ) -> None:
        content = {"model": zeros, "ema_decay": 0.9999, "use_ema": True, "epoch": 3, key: state, "optimizer": {"a": {}}}
        with caplog.at_level("INFO"):
            assert self.loaded(content, tmp_path, state)
        assert f"x.pth: taking the averages in {key} instead of model" in caplog.messages[0]
        assert len(caplog.messages) == 1

    @pytest.mark.parametrize(
        "kept",
        [
            lambda state: {"state_dict": state, "decay": 0.99},
            lambda state: {"module": state},
            lambda state: {"n_averaged": torch.tensor(7)} | {f"module.{name}": each for name, each in state.items()},
            lambda state: {"shadow_params": [*state.values()], "decay": 0.9, "optimization_step": 7},
            lambda state: [*state.values()],
            lambda state: tuple(each for name, each in state.items() if "rope" not in name and name != "mask"),
        ],
    )
    def test_how_averages_are_kept(
        self, kept: Any, tmp_path: Path, state: dict[str, Tensor], zeros: dict[str, Tensor]
    ) -> None:
        assert self.loaded({"model": zeros, "ema": kept(state)}, tmp_path, state)

    @pytest.mark.parametrize(
        "prefixes", [("model.", "ema_model."), ("", "model_ema."), ("online_model.", "ema_model.")]
    )
    def test_averages_under_a_prefix(
        self, prefixes: tuple[str, str], tmp_path: Path, state: dict[str, Tensor], zeros: dict[str, Tensor]
    ) -> None:
        both = {prefixes[0] + name: tensor for name, tensor in zeros.items()}
        both |= {prefixes[1] + name: tensor for name, tensor in state.items() if "rope" not in name}
        assert self.loaded({"state_dict": both | {"step": torch.tensor(1)}}, tmp_path, state)

    def test_averages_of_other_names_are_left(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        """As latent diffusion has them, without any dots."""
        averages = {f"model_ema.{name.replace('.', '')}": torch.zeros_like(each) for name, each in state.items()}
        assert self.loaded(state | averages | {"model_ema.decay": torch.tensor(0.9)}, tmp_path, state)

    def test_several_averages(
        self, tmp_path: Path, state: dict[str, Tensor], zeros: dict[str, Tensor], caplog: Any
    ) -> None:
        with caplog.at_level("INFO"):
            assert self.loaded({"model": zeros, "ema_0.99": state, "ema_0.9999": zeros}, tmp_path, state)
        assert "taking the averages in ema_0.99 instead of ema_0.9999, model" in caplog.text

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"ema": [torch.zeros(1)]}, r"ema: expected weights with names beside it, got a list of 1 tensors"),
            (
                {"model": {"a": torch.zeros(2), "b": torch.zeros(3)}, "ema": [torch.zeros(3), torch.zeros(2)]},
                r"ema: expected the 2 weights beside it in their order, got a list of 2 tensors",
            ),
            ({"ema": {"decay": 0.9}}, "expected named dense tensors, got 'ema' among them"),
            ({0: torch.zeros(1)}, "expected named dense tensors, got 0 among them"),
            ({"a": torch.ones(2).to_sparse()}, "expected named dense tensors, got 'a' among them"),
            (in_itself(), "expected named dense tensors, got 'model' among them"),
            (shared(40), "expected named dense tensors, got 'model' among them"),
        ],
    )
    def test_no_averages(self, content: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=rf"x\.pth: {message}"):
            FlowAR.from_published(torch_file(tmp_path / "x.pth", content))

    def test_safetensors(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "x.safetensors")
        assert same_model(FlowAR.from_published(tmp_path / "x.safetensors"), FlowAR.from_published(state))
        with pytest.raises(CheckpointError, match=r"found none; flowar convert reads files with the authors' names"):
            FlowAR.from_pretrained(tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match=r"x\.pth: expected a folder or a safetensors file; flowar convert"):
            FlowAR.from_pretrained(torch_file(tmp_path / "x.pth", state))

    @pytest.mark.parametrize("extra", [np.float32(1.5), np.float64(2.5), np.arange(3), Path("x")])
    def test_what_is_no_plain_data(self, extra: Any, tmp_path: Path, state: dict[str, Tensor]) -> None:
        with pytest.raises(
            CheckpointError, match=r"it asks to run [\w.]+: refused; where it was made, torch\.save\(model\.state_dict"
        ) as raised:
            FlowAR.from_published(torch_file(tmp_path / "x.pth", {"model": state, "loss": extra}))
        assert one_line(raised)
        assert "weights_only" not in str(raised.value)


class TestHeads:
    def state(self) -> dict[str, Tensor]:
        return recording("tiny_attn_mlp").state_dict()

    def test_nothing_tells_them(self) -> None:
        with pytest.raises(CheckpointError, match=r"rotary tables, .* found none: say ar_heads and flow_heads$"):
            FlowAR.from_published(self.state())
        with pytest.raises(CheckpointError, match=r"found none: say flow_heads$"):
            FlowAR.from_published(self.state(), ar_heads=2)

    def test_given(self) -> None:
        model = recording("tiny_attn_mlp").config()
        assert model.flow_heads
        loaded = FlowAR.from_published(self.state(), ar_heads=model.ar_heads, flow_heads=model.flow_heads)
        assert same_model(loaded, FlowAR.from_published(recording("tiny_attn_mlp").published()))

    def test_given_but_not_those_of_the_tables(self) -> None:
        with pytest.raises(CheckpointError, match=r"ar_heads: expected \d, as the rotary tables say, got 3"):
            FlowAR.from_published(recording("tiny_attn_mlp").published(), ar_heads=3)
        with pytest.raises(ValueError, match="ar_heads"):
            FlowAR.from_published(self.state(), ar_heads=0, flow_heads=1)


class Hostile:
    """Creates the file `path` if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [True, False])
def test_hostile_pickle_runs_nothing(legacy: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = torch_file(tmp_path / "x.pth", {"model": Hostile(mark)}, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"it asks to run \w+\.system: refused") as raised:
        FlowAR.from_published(path)
    assert one_line(raised)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # the file was hostile indeed


def truncated(path: Path, share: float) -> None:
    content = torch_file(path).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "expected a PyTorch file of tensors, but reading failed: .*No such file"),
        (lambda path: path.mkdir(), "expected a PyTorch file of tensors"),
        (lambda path: path.write_bytes(b""), "expected a PyTorch file of tensors"),
        (lambda path: path.write_bytes(b"no checkpoint at all\n" * 50), "expected a PyTorch file of tensors"),
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), "expected"),
        (lambda path: path.write_bytes(pickle.dumps([1, 2], 4)), "expected"),  # of which torch warns
        (lambda path: truncated(path, 0.5), "expected a PyTorch file of tensors"),
        (lambda path: truncated(path, 0.999), "expected a PyTorch file of tensors"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "expected a PyTorch file of tensors"),
        (lambda path: torch_file(path, [torch.zeros(1)]), "expected named dense tensors, got list"),
        (lambda path: torch_file(path, {}), "expected named dense tensors, got none"),
        (lambda path: torch_file(path, {"model": {"x": 1}}), "expected named dense tensors, got 'x' among them"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_unreadable_published_file(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"x.pth: .*{message}") as raised:
        FlowAR.from_published(tmp_path / "x.pth")
    assert one_line(raised)
