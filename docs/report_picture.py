"""Draws report.png: the parts of a study's report that say most, from the real page in a real browser.

    python docs/report_picture.py REPORT.html [PICTURE.png]

Needs Playwright and Chromium (/usr/bin/chromium, or what CHROMIUM names). Nothing is fetched: the page loads nothing.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
WIDTH, HEIGHT, MARGIN = 1200, 900, 20
SHOWN = ("answer", "front", "gallery", "failures")
"""Sections, by their ids."""


@contextmanager
def opened(page_file: Path) -> Iterator[Any]:
    """The page, once its charts are drawn, in a browser of its own."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=list(FLAGS),
            viewport={"width": WIDTH, "height": HEIGHT},
            color_scheme="light",
        )
        page = browser.new_page()
        page.goto(page_file.absolute().as_uri())
        page.wait_for_selector("html[data-drawn]")
        yield page
        browser.close()


def main(page_file: Path, picture: Path) -> None:
    """One section below the other."""
    with opened(page_file) as page, tempfile.TemporaryDirectory() as folder:
        page.add_style_tag(content="nav { display: none }")  # it would stick in the middle of long sections
        parts = []
        for name in SHOWN:
            part = Path(folder) / f"{name}.png"
            page.locator(f"section#{name}").screenshot(path=part)
            parts.append(Image.open(part).convert("RGB"))
        size = max(one.width for one in parts) + 2 * MARGIN, sum(one.height for one in parts)
        whole = Image.new("RGB", size, "white")
        top = 0
        for one in parts:
            whole.paste(one, (MARGIN, top))
            top += one.height
        whole.save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("report.png"))
