"""Takes the pictures of the site that README and documents show.

    python scripts/screenshots.py http://127.0.0.1:8321 docs/images

Needs a Chromium (``CHROMIUM``, else the first of the usual names on the path) and a running
``tidemill up``. Each page is taken in both languages, light and dark, wide and on a phone.
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
    width: int = 1280
    height: int = 900
    scheme: str = "light"
    whole: bool = False


def find_chromium() -> str | None:
    """The browser to drive, or None if there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, (shutil.which(name) for name in CANDIDATES)), None)


def shots(url: str) -> Iterator[Shot]:
    """What to take of the site at ``url``: its pages, and a run if there has been one."""
    for language in ("zh", "en"):
        for scheme in ("light", "dark"):
            yield Shot(f"home-{language}-{scheme}", f"/{language}/", scheme=scheme)
            yield Shot(f"phone-{language}-{scheme}", f"/{language}/", 390, 844, scheme)
        for name, path in _pages(url):
            yield Shot(f"{name}-{language}-light", f"/{language}{path}", whole=True)
        for name, path in _pages(url):
            yield Shot(f"{name}-{language}-dark", f"/{language}{path}", scheme="dark", whole=True)
            yield Shot(f"{name}-{language}-phone", f"/{language}{path}", 390, 844, whole=True)


def _pages(url: str) -> Iterator[tuple[str, str]]:
    yield "claims", "/claims"
    yield "about", "/about"
    claims = _read(url, "/claims.json")["claims"]
    for name in dict.fromkeys(claim["system"] for claim in claims):
        system = _read(url, f"/s/{name}.json")
        yield f"paper-{name}", f"/p/{system['paper']}"
        yield f"system-{name}", f"/s/{name}"
        for run in system["runs"][:1]:
            yield f"run-{name}", f"/r/{run['id']}"


def _read(url: str, path: str) -> dict:
    with urlopen(url.rstrip("/") + path, timeout=30) as answer:
        return json.load(answer)


def take(browser: Browser, url: str, shot: Shot, folder: Path) -> Path:
    """Take one picture; gives its file."""
    phone = shot.width < 600
    context = browser.new_context(
        viewport={"width": shot.width, "height": shot.height},
        color_scheme=shot.scheme,
        device_scale_factor=2 if phone else 1,
        reduced_motion="reduce",
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
