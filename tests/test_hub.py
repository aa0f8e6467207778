"""Models to the Hub and from it: against a Hub on a port of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import small_model
from fake_hub import READER, WRITER, FakeHub, ask, serve

from flowar import FlowAR, FlowARPipeline
from flowar.cli import main
from flowar.errors import CheckpointError, FlowARError
from flowar.tokenizers.pixel import PixelTokenizer


def pipeline(seed: int = 0) -> FlowARPipeline:
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    return FlowARPipeline(small_model(seed, tokenizer=tokenizer.record(), num_inference_steps=2), tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "model"
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve(FakeHub()) as hub:
        ask(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def writer(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)


def weights(model: FlowAR) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def refused(source: str, revision: str | None = None) -> str:
    with pytest.raises(CheckpointError) as raised:
        FlowARPipeline.from_pretrained(source, revision=revision)
    assert "\n" not in str(raised.value)
    return str(raised.value)


class TestLoad:
    def test_model_and_its_cache(self, hub: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
        hub.add("user/model", files | {"README.md": b"", "notes.txt": b""})
        loaded = FlowARPipeline.from_pretrained("user/model")
        assert torch.equal(weights(loaded.model), weights(pipeline().model))
        assert sorted(hub.downloads()) == sorted(files)
        assert [path.name for path in (tmp_path / "cache").glob("models--*")] == ["models--user--model"]
        FlowARPipeline.from_pretrained("user/model")
        assert sorted(hub.downloads()) == sorted(files)  # asked for no file again
        FlowARPipeline.from_pretrained("user/model", cache_dir=tmp_path / "other")
        assert sorted(hub.downloads()) == sorted([*files] * 2)

    def test_new_commit_replaces_what_changed(self, hub: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
        repository = hub.add("user/model", files)
        FlowARPipeline.from_pretrained("user/model")
        pipeline(1).model.save_pretrained(tmp_path / "new")
        repository.commit("main", {"model.safetensors": (tmp_path / "new" / "model.safetensors").read_bytes()})
        loaded = FlowARPipeline.from_pretrained("user/model")
        assert torch.equal(weights(loaded.model), weights(pipeline(1).model))
        assert sorted(hub.downloads()) == sorted([*files, "model.safetensors"])

    def test_revisions(self, hub: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
        repository = hub.add("user/model", files)
        first = repository.branches["main"]
        pipeline(1).model.save_pretrained(tmp_path / "new")
        other = repository.commit(
            "v2", files | {"model.safetensors": (tmp_path / "new/model.safetensors").read_bytes()}
        )
        for revision, seed in ((None, 0), ("main", 0), (first, 0), ("v2", 1), (other, 1)):
            loaded = FlowAR.from_pretrained("user/model", revision=revision)
            assert torch.equal(weights(loaded), weights(pipeline(seed).model))
        expected = "user/model: no such folder, and the Hub has no revision v3 of it"
        assert refused("user/model", "v3") == expected

    def test_nothing_pickled_is_downloaded(self, hub: FakeHub, files: dict[str, bytes]) -> None:
        harmless = {name: data for name, data in files.items() if name != "model.safetensors"}
        pickled = dict.fromkeys(("pytorch_model.bin", "model.pth", "model.pt", "model.pkl"), b"cos\nsystem\n")
        hub.add("user/model", harmless | pickled)
        assert "model.safetensors: expected a safetensors file" in refused("user/model")
        assert sorted(hub.downloads()) == sorted(harmless)

    @pytest.mark.parametrize("way", ["offline mode", "no connection", "out of order"])
    def test_without_the_hub(
        self, hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        hub.add("user/model", files)
        hub.add("user/other", files)
        FlowARPipeline.from_pretrained("user/model")
        if way == "offline mode":
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        if way == "no connection":
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # which is closed
        hub.failing = way == "out of order"
        hub.requests.clear()
        assert torch.equal(weights(FlowAR.from_pretrained("user/model")), weights(pipeline().model))
        message = refused("user/other")
        assert message.startswith("user/other: no such folder, and neither the cache nor the Hub gives one: ")
        reason = {"offline mode": "HF_HUB_OFFLINE", "no connection": "Connection refused", "out of order": "500"}
        assert reason[way] in message
        assert hub.downloads() == []

    def test_no_such_repository(self, hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        hub.add("user/secret", files, private=True)
        reason = "the Hub has no such repository, or none that your token opens (HF_TOKEN, `hf auth login`)"
        assert refused("user/model") == f"user/model: no such folder, and {reason}"
        assert refused("user/secret") == f"user/secret: no such folder, and {reason}"
        monkeypatch.setenv("HF_TOKEN", READER)
        assert refused("user/model") == f"user/model: no such folder, and {reason}"
        assert isinstance(FlowARPipeline.from_pretrained("user/secret"), FlowARPipeline)

    def test_gated_repository(self, hub: FakeHub, files: dict[str, bytes]) -> None:
        hub.add("user/model", files, gated=True)
        assert refused("user/model").endswith("those who accepted its terms there and log in with `hf auth login`")

    def test_local_folder_comes_first(
        self, hub: FakeHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "user").mkdir()
        (tmp_path / "user" / "model").symlink_to(folder)
        FlowARPipeline.from_pretrained("user/model")
        assert hub.requests == []


@pytest.mark.usefixtures("writer")
class TestPush:
    def test_round_trip(self, hub: FakeHub) -> None:
        pipe = pipeline()
        address = pipe.push_to_hub("user/model", license="mit", commit_message="The first")
        repository = hub.repositories["user/model"]
        assert address == f"{hub.endpoint}/user/model/commit/{repository.branches['main']}"
        assert repository.messages == ["", "The first"]
        assert not repository.private
        pushed = repository.commits[repository.branches["main"]]
        assert {*pushed} == {"README.md", "samples.png", "config.json", "model.safetensors", "tokenizer.json"}
        assert b"license: mit\n" in pushed["README.md"]
        assert [*hub.large.values()] == [pushed["model.safetensors"]]
        loaded = FlowARPipeline.from_pretrained("user/model")
        assert torch.equal(weights(loaded.model), weights(pipe.model))

    def test_again(self, hub: FakeHub) -> None:
        for seed in (0, 1):
            pipeline(seed).push_to_hub("user/model", samples=0)
        assert hub.repositories["user/model"].messages == ["", "Upload model", "Upload model"]
        assert torch.equal(weights(FlowAR.from_pretrained("user/model")), weights(pipeline(1).model))

    def test_options(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        pipeline().push_to_hub(
            "user/model", token=WRITER, private=True, revision="half", dtype=torch.float16, samples=0
        )
        repository = hub.repositories["user/model"]
        assert repository.private
        assert repository.commits[repository.branches["main"]] == {}
        monkeypatch.setenv("HF_TOKEN", READER)
        loaded = FlowAR.from_pretrained("user/model", revision="half")
        assert torch.equal(weights(loaded), weights(pipeline().model).half().float())

    @pytest.mark.parametrize(
        ("set_up", "message"),
        [
            (lambda hub, patch: patch.delenv("HF_TOKEN"), "expected a token to write with, found none; set HF_TOKEN"),
            (
                lambda hub, patch: patch.setenv("HF_TOKEN", "hf_wrong"),
                "not uploaded, as asking the Hub failed: Client error '401",
            ),
            (
                lambda hub, patch: patch.setenv("HF_TOKEN", READER),
                "not uploaded, as asking the Hub failed: 403 Forbidden: You",
            ),
            (
                lambda hub, patch: setattr(hub, "failing", True),
                "not uploaded, as asking the Hub failed: Server error '500",
            ),
            (
                lambda hub, patch: patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9"),
                "not uploaded, as asking the Hub failed: Connection refused",
            ),
            (
                lambda hub, patch: patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True),
                "offline mode is enabled",
            ),
        ],
    )
    def test_refusals(
        self,
        hub: FakeHub,
        monkeypatch: pytest.MonkeyPatch,
        set_up: Callable[[FakeHub, pytest.MonkeyPatch], None],
        message: str,
    ) -> None:
        set_up(hub, monkeypatch)
        with pytest.raises(FlowARError) as raised:
            pipeline().push_to_hub("user/model", samples=0)
        assert str(raised.value).startswith("user/model: ")
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
        assert hub.repositories == {}

    @pytest.mark.parametrize("name", ["model", "a/b/c", "user/", "https://huggingface.co/user/model"])
    def test_names(self, hub: FakeHub, name: str) -> None:
        with pytest.raises(FlowARError, match=f"^repo: expected user/name, got '{name}'$"):
            pipeline().push_to_hub(name)
        assert hub.requests == []


class TestCommand:
    @pytest.mark.usefixtures("writer")
    def test_folder(
        self, hub: FakeHub, capsys: pytest.CaptureFixture[str], folder: Path, files: dict[str, bytes]
    ) -> None:
        main(["push", str(folder), "user/model", "--license", "mit", "--samples", "1", "--private"])
        repository = hub.repositories["user/model"]
        oid = repository.branches["main"]
        assert capsys.readouterr() == (f"5 files in {hub.endpoint}/user/model/commit/{oid}\n", "")  # no bars
        assert repository.private
        pushed = repository.commits[oid]
        assert {name: pushed[name] for name in files} == files
        assert {*pushed} == {*files, "README.md", "samples.png"}

    @pytest.mark.usefixtures("writer")
    def test_folder_with_a_card(
        self, hub: FakeHub, capsys: pytest.CaptureFixture[str], files: dict[str, bytes], tmp_path: Path
    ) -> None:
        for name, data in (files | {"README.md": b"My own.", "notes.txt": b"Not for others."}).items():
            (tmp_path / name).write_bytes(data)
        main(["push", str(tmp_path), "user/model"])
        repository = hub.repositories["user/model"]
        assert repository.commits[repository.branches["main"]] == files | {"README.md": b"My own."}
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["push", str(tmp_path), "user/model", "--license", "mit"])
        expected = f"{tmp_path / 'README.md'}: expected no card beside options that are about a card to write"
        assert capsys.readouterr().err == f"flowar: {expected}\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["/no/folder", "user/model"], "model: expected a folder, a shipped model"),
            (["FOLDER", "model"], "repo: expected user/name, got 'model'"),
            (["FOLDER"], "the following arguments are required: repo"),
            (["FOLDER", "user/model", "more"], "unrecognized arguments: more"),
            (["FOLDER", "user/model", "--samples", "-1"], "samples: expected an integer >= 0, got -1"),
        ],
    )
    @pytest.mark.usefixtures("writer")
    def test_bad_input(
        self, hub: FakeHub, capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str], message: str
    ) -> None:
        with pytest.raises(SystemExit) as exit_:
            main(["push", *(str(folder) if word == "FOLDER" else word for word in arguments)])
        assert exit_.value.code == 2
        assert capsys.readouterr().err.startswith(f"flowar: {message}")
        assert hub.requests == []

    @pytest.mark.slow
    def test_as_a_program(self, hub: FakeHub, folder: Path, tmp_path: Path) -> None:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        code = f"""if True:
            from flowar.cli import main
            main(["push", {str(folder)!r}, "user/model", "--samples", "0"])
            main(["sample", "--model", "user/model", "--per_class", "1"])
        """
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | settings | {"HF_TOKEN": WRITER},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[1].startswith("5 images in samples.png, seed ")
        assert "HTTP Request" not in done.stderr
        assert (tmp_path / "home" / "hub" / "models--user--model").is_dir()
