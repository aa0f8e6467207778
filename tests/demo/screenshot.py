"""The picture of the README, both tabs in use: python tests/demo/screenshot.py docs/demo.png"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from browser import edit, generate, opened, paint, pictures, served
from PIL import Image

from flowar.system.files import write_aside

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTH, HEIGHT = 1180, 760
SETTLED = 2000  # milliseconds
SEED = "2"
CHOSEN = 8  # a bag, which may get a handle
STROKE = [(0.2, 0.12), (0.8, 0.12)]
COLORS = 128


def main(output: Path) -> None:
    """Write both tabs, one below the other."""
    with served(threads=2) as address, opened(address, WIDTH, HEIGHT) as page:
        generate(page)  # the first time takes longer
        page.locator("#sample-seed input").fill(SEED)
        generate(page)
        pictures(page, "pictures").nth(CHOSEN).click()
        page.wait_for_timeout(SETTLED)
        shots = [shot(page)]
        page.locator("#send").click()
        page.locator("#count input[type=number]").fill("6")
        paint(page, STROKE)
        edit(page)
        page.wait_for_timeout(SETTLED)
        shots.append(shot(page))
    whole = Image.new("RGB", (WIDTH, HEIGHT * len(shots)))
    for index, each in enumerate(shots):
        whole.paste(each, (0, HEIGHT * index))
    write_aside(output, lambda aside: whole.quantize(COLORS).save(aside, "PNG", optimize=True))


def shot(page: Page) -> Image.Image:
    """What the window shows, but for the pointer's traces."""
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    return Image.open(io.BytesIO(page.screenshot()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
