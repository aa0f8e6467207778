"""The page of `flowar demo` in a headless Chromium: serve it, open it, use it as one does."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

HOST = "127.0.0.1"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 600_000  # milliseconds, for machines that have other things to do
MARGIN = 30  # pixels around the picture in the editor
STEPS = 3  # of the mouse from point to point; without a GPU each may take a second to draw
Point = tuple[float, float]


def chromium() -> str | None:
    """The browser of this machine."""
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


@contextmanager
def served(threads: int = 1, errors: IO[str] | None = None) -> Iterator[str]:
    """The address of a page about the shipped model, whose stderr goes to `errors`.

    Its process must end well when it is interrupted.
    """
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flowar", "demo", "--port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    pipe, interruptible = subprocess.PIPE, partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # as from a terminal
    with subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=errors, text=True, preexec_fn=interruptible
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"flowar-fashion at http://{HOST}:{port}, until Ctrl+C\n"
            yield f"http://{HOST}:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            try:
                status = process.wait(PATIENCE / 1000)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert status == 0


@contextmanager
def opened(address: str, width: int = 1280, height: int = 800) -> Iterator[Page]:
    """The page at `address`, which must ask no other machine for anything."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE)
        asked: set[str | None] = set()
        page.on("request", lambda request: asked.add(urlsplit(request.url).hostname))
        page.goto(address)
        page.locator("#generate").wait_for()
        yield page
        browser.close()
    assert asked - {None} == {HOST}  # None: what the page makes itself, as of blob: and data:


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def pictures(page: Page, gallery: str) -> Locator:
    return page.locator(f"#{gallery} img")


def captions(page: Page, gallery: str) -> list[str]:
    return page.locator(f"#{gallery} .caption-label").all_inner_texts()


def choose_classes(page: Page, names: Sequence[str]) -> None:
    """These instead of those that are chosen: each found by its name."""
    page.locator("#classes").get_by_title("Clear", exact=True).click()
    for name in names:
        page.locator("#classes input").fill(name)
        page.get_by_role("option", name=name).click()
    page.locator("#classes input").press("Escape")


def generate(page: Page) -> None:
    """Click, and wait until the time is told, which is told with the last scale."""
    run(page, "generate", "time")


def edit(page: Page) -> None:
    """As `generate`, on the other tab."""
    run(page, "edit", "edit-time")


def run(page: Page, button: str, time: str) -> None:
    before = page.locator(f"#{time}").inner_text()
    page.locator(f"#{button}").click()
    page.wait_for_function(
        "([id, before]) => (text => text.includes(' each') && text != before)(document.getElementById(id).innerText)",
        arg=[time, before],
    )


def paint(page: Page, points: Sequence[Point]) -> None:
    """A stroke through points of the picture, from (0, 0) to (1, 1), which the editor shows in its middle."""
    canvas = page.locator("#editor canvas").first
    canvas.wait_for()
    page.wait_for_timeout(1000)  # until the editor has come to rest: it says so nowhere
    box = canvas.bounding_box()
    assert box is not None
    side = min(box["width"], box["height"]) - 2 * MARGIN
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    for index, (x, y) in enumerate(points):
        page.mouse.move(left + x * side, top + y * side, steps=STEPS)
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def image(page: Page, gallery: str, index: int) -> Image.Image:
    """A picture of a gallery, as the server sent it."""
    address = pictures(page, gallery).nth(index).get_attribute("src")
    assert address is not None
    return Image.open(io.BytesIO(page.request.get(address).body()))
