"""Takes the pictures of the site that README and documents show.

    python scripts/screenshots.py http://127.0.0.1:8321 docs/images

Needs a Chromium (``CHROMIUM``, else the first of the usual names on the path) and a running
``tidemill up`` that has finished a run. A test holds its names to those that the documents show.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Browser, sync_playwright

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ARRIVED = """Promise.all([...document.images]
    .filter((image) => image.loading !== "lazy")
    .map((image) => image.decode()))"""
"""Waits for the pictures; a lazy one inside a closed fold never comes."""
CANDIDATES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Shot:
    """One picture: its file name, the path of the page, how it is looked at."""

    name: str
    path: str
    whole: bool = False


def find_chromium() -> str | None:
    """The browser to drive, or None if there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, (shutil.which(name) for name in CANDIDATES)), None)


def shots(url: str) -> Iterator[Shot]:
    """What the documents show: both front pages, a system's paper and its latest run.

    Raises:
        SystemExit: Nothing has been run there yet.
    """
    names = sorted({claim["system"] for claim in _read(url, "/claims.json")["claims"]})
    systems = [_read(url, f"/s/{name}.json") for name in names]
    done = [(s, run) for s in systems for run in s["runs"] if run["state"] == "done"]
    if not done:
        sys.exit(f"{url} has no finished run; press Run there first.")
    system, run = done[0]
    yield Shot("home", "/en/")
    yield Shot("home-zh", "/zh/")
    yield Shot("paper", f"/en/p/{system['paper']}", whole=True)
    yield Shot("run", f"/en/r/{run['id']}", whole=True)


def _read(url: str, path: str) -> dict:
    with urlopen(url.rstrip("/") + path, timeout=30) as answer:
        return json.load(answer)


def take(browser: Browser, url: str, shot: Shot, folder: Path) -> Path:
    """Take one picture; gives its file."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(url.rstrip("/") + shot.path)
    page.evaluate("document.fonts.ready")
    page.evaluate(ARRIVED)
    file = folder / f"{shot.name}.png"
    page.screenshot(path=file, full_page=shot.whole)
    context.close()
    return file


def main(url: str, folder: Path) -> int:
    """Take all pictures of the site at ``url`` into ``folder``."""
    chromium = find_chromium()
    if chromium is None:
        sys.stderr.write("no Chromium found; install one or set CHROMIUM to its path.\n")
        return 3
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        for shot in shots(url):
            sys.stdout.write(f"{take(browser, url, shot, folder)}\n")
        browser.close()
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.stderr.write(__doc__)
        sys.exit(2)
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
