"""The page of `flowar demo` as its users meet it, in a headless Chromium."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import captions, choose_classes, chromium, edit, generate, image, opened, paint, pictures, served, tab
from PIL import Image, ImageChops

from flowar.data.class_names import read_class_names

if TYPE_CHECKING:
    from playwright.sync_api import Page

MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if chromium() else ["chromium"]
NAMES = read_class_names("fashion_mnist")
# Every text that the line with the time has had.
RECORD_TIME = """() => {
    window.told = [];
    const line = document.getElementById("time");
    const changes = {subtree: true, characterData: true, childList: true};
    new MutationObserver(() => told.push(line.innerText)).observe(line, changes);
}"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as address:
        yield address


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with opened(address) as page:
        yield page


def told(page: Page, message: str) -> None:
    """Wait until the page shows the message."""
    page.get_by_test_id("toast-body").get_by_text(message).wait_for()


def test_classes_to_pictures(page: Page) -> None:
    page.evaluate(RECORD_TIME)
    generate(page)
    assert captions(page, "pictures") == [*NAMES, *NAMES]
    assert captions(page, "strip") == ["1x1", "2x2", "4x4", "7x7"]
    assert any(text.startswith("at ") for text in page.evaluate("told"))  # while they formed
    assert page.locator("#time").inner_text().startswith("20 images in ")
    shirt, boot = image(page, "pictures", 0), image(page, "pictures", 9)
    assert image(page, "strip", 3) == shirt
    assert shirt.size == (28, 28)
    assert page.evaluate("getComputedStyle(document.querySelector('#pictures img')).imageRendering") == "pixelated"

    pictures(page, "pictures").nth(9).click()
    page.wait_for_function(
        "before => document.querySelectorAll('#strip img')[3].src != before",
        arg=pictures(page, "strip").nth(3).get_attribute("src"),
    )
    assert image(page, "strip", 3) == boot

    choose_classes(page, ["Ankle boot", "Bag"])
    generate(page)
    assert captions(page, "pictures") == ["Ankle boot", "Bag"] * 2
    assert image(page, "pictures", 0) not in (shirt, boot)


def test_brush_and_edit(page: Page) -> None:
    choose_classes(page, ["Coat"])
    generate(page)
    coat = image(page, "pictures", 1)
    pictures(page, "pictures").nth(1).click()
    page.locator("#send").click()
    paint(page, [(0.2, 0.25), (0.8, 0.25)])
    edit(page)
    edited = [image(page, "edited", index) for index in range(4)]
    assert len({each.tobytes() for each in edited}) == 4
    for each in edited:
        left, top, right, bottom = ImageChops.difference(each, coat).getbbox()
        assert 2 <= left < 7
        assert 21 <= right <= 26
        assert 3 <= top < bottom <= 11  # 7 in the middle, and the brush

    page.get_by_label("Vary, keeping coarse scales").click()
    edit(page)
    varied = image(page, "edited", 0)
    assert ImageChops.difference(varied, coat).getbbox()[3] > 14  # not only what is painted


def test_bad_input_is_told_and_loses_nothing(page: Page, tmp_path: Path) -> None:
    choose_classes(page, ["Dress"])
    generate(page)
    dress = image(page, "pictures", 0)
    choose_classes(page, [])
    page.locator("#generate").click()
    told(page, "pictures: expected 1 to 200 of all classes together, got 0")
    assert image(page, "pictures", 0) == dress

    tab(page, "Edit")
    page.locator("#edit").click()
    told(page, "image: expected a picture to edit, got none")
    tab(page, "Sample")
    page.locator("#send").click()
    paint(page, [(0.5, 0.5), (0.6, 0.6)])
    Image.new("L", (40, 30)).save(tmp_path / "wide.png")
    with page.expect_file_chooser() as chooser:
        page.locator("#open").click()
    chooser.value.set_files(tmp_path / "wide.png")
    told(page, "image: expected 28x28 pixels, got 40x30")
    edit(page)  # the picture and the stroke are still there
    assert ImageChops.difference(image(page, "edited", 0), dress).getbbox() is not None

    page.get_by_label("Clear canvas").click()
    page.wait_for_timeout(1000)
    page.locator("#edit").click()
    told(page, "mask: expected white where the image is to be replaced, got none")


def test_a_full_queue_is_told(page: Page, address: str) -> None:
    from flowar.demo.page import WAITING

    names = [each["api_name"] for each in page.request.get(f"{address}/config").json()["dependencies"]]
    drawing = {"fn_index": names.index("generate"), "data": [[*range(10)], 16, 0, "", 2]}
    for index in range(WAITING + 5):
        page.request.post(f"{address}/gradio_api/queue/join", data=drawing | {"session_hash": f"waiting{index}"})
    page.locator("#generate").click()
    told(page, "busy")
