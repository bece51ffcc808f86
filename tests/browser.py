"""Pages in a real browser: Chromium without a window, driven by Playwright.

    with opened(folder, width=360) as page: page.click("text=Start")

It has no network, and a page that asks for any, logs an error or opens an unexpected dialog fails its test.
"""

import os
import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

INSTALL = (
    "the pages' tests drive a browser: pip install -r requirements-dev.txt, and apt-get install chromium "
    "(or any other Chromium or Chrome, named by the variable CHROMIUM)"
)


@cache
def browser():
    """One process for all tests; Playwright ends it with this one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail(INSTALL, pytrace=False)
    if not program:
        pytest.fail(INSTALL, pytrace=False)
    # the sandbox wants rights that root and containers lack; these pages are our own
    return sync_playwright().start().chromium.launch(executable_path=program, args=["--no-sandbox"])


@contextmanager
def opened(folder: Path, width=1280, height=900, confirm=False, clock=False, **context):
    """The folder's index.html in a fresh profile; confirm: its questions get a yes; clock: page.clock can be moved.

    context: as of Playwright's new_context.
    """
    profile = browser().new_context(viewport={"width": width, "height": height}, offline=True, **context)
    profile.set_default_timeout(10_000)
    if clock:
        profile.clock.install()
    page, bad = profile.new_page(), []
    page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or bad.append(request.url))
    # ABORTED: the test went on, or reloaded, while a picture was on its way
    page.on("requestfailed", lambda r: r.failure == "net::ERR_ABORTED" or bad.append(f"{r.url}: {r.failure}"))
    page.on("console", lambda message: message.type in ("error", "warning") and bad.append(message.text))
    page.on("pageerror", lambda error: bad.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept() if confirm else bad.append(dialog.message) or dialog.dismiss())
    try:
        page.goto((folder / "index.html").resolve().as_uri())
        yield page
        assert not bad, bad
    finally:
        profile.close()


def loaded(page, pictures="img") -> list[str]:
    """Sources of the pictures that the page has fetched and decoded."""
    script = "all => all.filter(i => i.complete && i.naturalWidth).map(i => i.getAttribute('src'))"
    return page.locator(pictures).evaluate_all(script)


def overflow(page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.scrollingElement.scrollWidth") - page.viewport_size["width"]


CONTRAST = """(all) => {
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? behind(node.parentElement) : colour;
  };
  const speaks = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  return all.filter((node) => node.checkVisibility() && speaks(node)).map((node) => {
    const { color, fill } = getComputedStyle(node);
    const pair = [node instanceof SVGElement ? fill : color, behind(node)].map(luminance);
    return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), node.outerHTML.slice(0, 80)];
  });
}"""


def contrasts(page) -> list:
    """Of every element with text of its own that is shown: WCAG's contrast with what is behind, and its markup."""
    return page.locator("body :not(script, noscript, button:disabled)").evaluate_all(CONTRAST)
