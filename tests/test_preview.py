"""Pictures while they form: on the terminal, byte by byte, and as a film."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import small_model
from PIL import Image
from torch import Tensor

from flowar import FlowARPipeline
from flowar.cli import main
from flowar.preview.film import write_film
from flowar.preview.protocols import half_blocks, iterm, kitty
from flowar.preview.terminal import TerminalPicture, choose_protocol, fit, obstacle
from flowar.tokenizers.pixel import PixelTokenizer

KITTY_COMMAND = re.compile(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\")


def noise_image(width: int, height: int, channels: int = 3) -> Image.Image:
    """Which no PNG makes small."""
    values = torch.randint(0, 256, (height, width, channels), dtype=torch.uint8).squeeze(-1)
    return Image.fromarray(values.numpy())


def from_base64(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


@pytest.fixture(scope="session")
def pipeline() -> FlowARPipeline:
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    return FlowARPipeline(small_model(tokenizer=tokenizer.record(), num_inference_steps=3), tokenizer)


@pytest.fixture
def model_folder(pipeline: FlowARPipeline, tmp_path: Path) -> Path:
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestDecodedScales:
    @pytest.mark.parametrize("options", [{}, {"naive": True}, {"naive": True, "dtype": "bfloat16"}])
    def test_every_scale_and_the_result_last(self, pipeline: FlowARPipeline, options: dict[str, object]) -> None:
        seen: list[tuple[int, list[Image.Image]]] = []
        out = pipeline([0, 3], seed=1, preview=lambda k, images: seen.append((k, images)), **options)
        assert [k for k, _ in seen] == [0, 1, 2]
        assert all(image.size == (8, 8) for _, images in seen for image in images)
        assert [image.tobytes() for image in seen[-1][1]] == [image.tobytes() for image in out.images]
        plain = pipeline([0, 3], seed=1, **options)
        assert torch.equal(plain.latents, out.latents)

    def test_coarse_scale_is_its_latents_enlarged(self, pipeline: FlowARPipeline) -> None:
        tokens: list[Tensor] = []
        first: list[Image.Image] = []
        pipeline(
            [2],
            preview=lambda k, images: first.extend(images[: k == 0]),
            on_scale=lambda k, part: tokens.append(part.clone()),
        )
        assert len(tokens) == 3
        whole = tokens[0][:, 0, :, None, None].expand(-1, -1, 4, 4).contiguous()
        (expected,) = pipeline.decode(whole)
        assert first[0].tobytes() == expected.tobytes()

    @pytest.mark.parametrize("naive", [False, True])
    def test_every_evaluation(self, pipeline: FlowARPipeline, naive: bool) -> None:
        """Euler's last evaluation points at the end of its scale."""
        seen: list[tuple[int, list[bytes]]] = []

        def preview(k: int, images: list[Image.Image]) -> None:
            seen.append((k, [image.tobytes() for image in images]))

        evaluations: list[tuple[int, int]] = []
        out = pipeline(
            [0, 3],
            seed=1,
            naive=naive,
            preview=preview,
            preview_steps=True,
            on_evaluation=lambda k, i, tokens: evaluations.append((k, i)),
        )
        assert [k for k, _ in seen] == [0] * 4 + [1] * 4 + [2] * 4
        assert all(seen[last - 1] == seen[last] for last in (3, 7, 11))
        assert seen[8] != seen[11]
        assert seen[-1][1] == [image.tobytes() for image in out.images]
        assert evaluations == [(k, i) for k in range(3) for i in range(3)]


class TestProtocols:
    @pytest.mark.parametrize(("image", "commands"), [(noise_image(2, 3), 1), (noise_image(70, 60), 5)])
    def test_kitty(self, image: Image.Image, commands: int) -> None:
        text = kitty(image, (70, 30))
        found = KITTY_COMMAND.findall(text)
        assert KITTY_COMMAND.sub("", text) == ""
        assert len(found) == commands
        assert all(len(data) == 4096 for _, data in found[:-1])
        keys = [dict(pair.split("=") for pair in control.split(",")) for control, _ in found]
        own = {"a": "T", "f": "100", "i": str(os.getpid()), "q": "2", "C": "1", "c": "70", "r": "30"}
        assert keys[0] == own | {"m": str(int(commands > 1))}
        assert keys[1:] == [{"m": "1"}] * (commands - 2) + [{"m": "0"}] * (commands > 1)
        assert from_base64("".join(data for _, data in found)).tobytes() == image.tobytes()

    @pytest.mark.parametrize("channels", [1, 3])
    def test_iterm(self, channels: int) -> None:
        image = noise_image(9, 5, channels)
        found = re.fullmatch(r"\x1b\]1337;File=inline=1;width=9;height=3:([^\x07]*)\x07", iterm(image, (9, 3)))
        assert found
        drawn = from_base64(found[1])
        assert (drawn.mode, drawn.size, drawn.tobytes()) == (image.mode, image.size, image.tobytes())

    def test_half_blocks(self) -> None:
        image = Image.new("RGB", (2, 3))
        colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (1, 2, 3), (4, 5, 6), (7, 8, 9)]
        image.putdata(colors)
        assert half_blocks(image, (2, 2)) == (
            "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[38;2;0;255;0;48;2;1;2;3m▀\x1b[0m\n"
            "\x1b[38;2;4;5;6;49m▀\x1b[38;2;7;8;9;49m▀\x1b[0m"
        )
        assert half_blocks(Image.new("L", (1, 2), 8), (1, 1)) == "\x1b[38;2;8;8;8;48;2;8;8;8m▀\x1b[0m"

    def test_half_blocks_of_a_larger_image(self) -> None:
        lines = half_blocks(Image.new("RGB", (100, 60), (9, 8, 7)), (10, 3)).splitlines()
        assert lines == ["\x1b[38;2;9;8;7;48;2;9;8;7m▀" * 10 + "\x1b[0m"] * 3


class TestTerminal:
    @pytest.mark.parametrize(
        ("environment", "protocol"),
        [
            ({"TERM": "xterm-kitty"}, kitty),
            ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, kitty),
            ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, kitty),
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, iterm),
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, iterm),
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, half_blocks),
            ({"TERM": "linux"}, half_blocks),
            ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, half_blocks),
            ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, half_blocks),
            ({"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}, half_blocks),
        ],
    )
    def test_choice(self, environment: dict[str, str], protocol: Callable[..., str]) -> None:
        assert choose_protocol(environment) is protocol

    @pytest.mark.parametrize(
        ("size", "cells"),
        [
            ((80, 40), (80, 20)),
            ((28, 27), (28, 14)),
            ((160, 20), (80, 5)),
            ((100, 400), (11, 22)),
            ((4000, 1), (80, 1)),
        ],
    )
    def test_fit(self, size: tuple[int, int], cells: tuple[int, int]) -> None:
        assert fit(size, (80, 22)) == cells

    def test_obstacles(self) -> None:
        assert obstacle(Terminal(), {"TERM": "xterm"}) is None
        assert obstacle(io.StringIO(), {"TERM": "xterm"}) == "stdout is no terminal"
        assert obstacle(Terminal(), {"TERM": "dumb"}) == "the terminal has no control sequences (TERM=dumb)"
        assert obstacle(Terminal(), {}) == "the terminal has no control sequences (TERM=)"

    def test_picture_is_drawn_in_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("LINES", "24")
        output, image = Terminal(), noise_image(6, 4)
        with TerminalPicture(output, lambda image, cells: f"<{image.size} in {cells}>") as picture:
            picture.show(image)
            picture.show(image)
        frame = "\x1b7<(48, 32) in (6, 2)>\x1b8"
        assert output.getvalue() == "\n\n\x1b[2A" + frame + frame + "\x1b[2B"

    def test_without_a_picture_nothing_is_written(self) -> None:
        output = Terminal()
        with TerminalPicture(output, kitty):
            pass
        assert output.getvalue() == ""


class TestFilm:
    @pytest.mark.parametrize("name", ["film.gif", "new/film.webp", "film.GIF"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_frames(self, name: str, channels: int, tmp_path: Path) -> None:
        frames = [noise_image(12, 10, channels) for _ in range(4)]
        write_film(tmp_path / name, frames)
        with Image.open(tmp_path / name) as film:
            assert (film.n_frames, film.size, film.info["loop"]) == (4, (12, 10), 0)
            durations = [(film.seek(k), film.load(), film.info["duration"])[2] for k in range(4)]
        assert durations == [500, 500, 500, 2000]

    def test_many_frames_are_shorter(self, tmp_path: Path) -> None:
        write_film(tmp_path / "film.gif", [noise_image(6, 5) for _ in range(40)])
        with Image.open(tmp_path / "film.gif") as film:
            assert (film.n_frames, film.info["duration"]) == (40, 200)

    def test_grey_frames_of_a_gif_are_exact(self, tmp_path: Path) -> None:
        frames = [noise_image(12, 10, 1) for _ in range(3)]
        write_film(tmp_path / "film.gif", frames)
        with Image.open(tmp_path / "film.gif") as film:
            read = [(film.seek(k), film.convert("L").tobytes())[1] for k in range(3)]
        assert read == [frame.tobytes() for frame in frames]

    def test_full_disk(self, tmp_path: Path, full_disk: None) -> None:
        (tmp_path / "film.gif").write_text("before")
        with pytest.raises(OSError, match="File too large"):
            write_film(tmp_path / "film.gif", [noise_image(60, 60)])
        assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]
        assert (tmp_path / "film.gif").read_text() == "before"


class TestCommand:
    def arguments(self, folder: Path, *more: str) -> list[str]:
        output = str(folder.parent / "grid.png")
        options = ["--classes", "0,1,2", "--per_class=2", "--seed=5", "--output", output]
        return ["sample", "--model", str(folder), *options, *more]

    def test_animate(self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path) -> None:
        film = tmp_path / "film.gif"
        main(self.arguments(model_folder, "--animate", str(film)))
        assert capsys.readouterr().out == f"6 images in {tmp_path / 'grid.png'}, seed 5, film in {film}\n"
        with Image.open(film) as read, Image.open(tmp_path / "grid.png") as grid:
            assert (read.n_frames, read.size) == (3, (192, 128))
            read.seek(2)
            assert read.convert("L").tobytes() == grid.tobytes()

    def test_no_picture_without_the_film(self, model_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(SystemExit) as exit_:
            main(self.arguments(model_folder, "--animate", str(tmp_path / ("n" * 300 + ".gif"))))
        assert exit_.value.code == 2
        assert not (tmp_path / "grid.png").exists()

    def test_animate_every_step(self, model_folder: Path, tmp_path: Path) -> None:
        film = tmp_path / "film.webp"
        main(self.arguments(model_folder, "--animate", str(film), "--preview_steps"))
        with Image.open(film) as read:
            assert read.n_frames > 6

    def test_steps_of_nothing(self, capsys: pytest.CaptureFixture[str], model_folder: Path) -> None:
        with pytest.raises(SystemExit):
            main(self.arguments(model_folder, "--preview_steps"))
        expected = "flowar: preview_steps: expected preview or animate beside it, got neither\n"
        assert capsys.readouterr().err == expected

    def test_preview(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model_folder: Path, tmp_path: Path
    ) -> None:
        for name, value in (("TERM", "xterm-kitty"), ("COLUMNS", "80"), ("LINES", "24")):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("TMUX", raising=False)
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        main(self.arguments(model_folder, "--preview"))
        text = terminal.getvalue()
        pictures = [from_base64(data) for _, data in KITTY_COMMAND.findall(text)]
        assert [picture.size for picture in pictures] == [(192, 128)] * 3
        with Image.open(tmp_path / "grid.png") as grid:
            assert pictures[-1].tobytes() == grid.tobytes()
        assert text.endswith(f"\x1b8\x1b[8B6 images in {tmp_path / 'grid.png'}, seed 5\n")
        assert capsys.readouterr().err == ""  # no bar runs through the picture

    def test_preview_into_a_file(self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path) -> None:
        main(self.arguments(model_folder, "--preview"))
        out, err = capsys.readouterr()
        assert out == f"6 images in {tmp_path / 'grid.png'}, seed 5\n"
        assert err == "preview: stdout is no terminal, so no picture is shown\n"

    @pytest.mark.parametrize("name", ["film.mp4", "film", "gif"])
    def test_other_endings(
        self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(SystemExit) as exit_:
            main(self.arguments(model_folder, "--animate", name))
        assert exit_.value.code == 2
        expected = f"flowar: animate: expected a file that ends in .gif or .webp, got {name}\n"
        assert capsys.readouterr().err == expected
        assert not (tmp_path / "grid.png").exists()
