"""Watch the status page in a headless Chromium while the application is under load, and take pictures of it.

    python3 -m venv .cache/browser && .cache/browser/bin/pip install playwright pillow
    .cache/browser/bin/python -m tests.browser.status http://x:secret@127.0.0.1:8000/ PICTURES [SECONDS]

`STATUS_PASSWORD=secret make run` serves it; DATABASE_URL with `pool_size=8&max_overflow=0` makes it
interesting. Not part of `make test`. It fails if the numbers or the plots stand still while requests come, if
anything is asked of another host, if the console shows an error, if a key does not do what it should, or if a
page is too wide.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

SIZES = {"360": (360, 1500), "1440": (1440, 1010)}

#: path, and how many ask for it at once
LOAD = {
    "/db": 4,
    "/sleep?ms=50": 24,
    "/queries?queries=5": 3,
    "/fortunes": 2,
    "/echo?token=t&ms=400": 2,
}


def main(url: str, pictures: Path, seconds: float = 20) -> None:
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        complaints: list[str] = []
        pages = {
            f"{name}{'-dark' if scheme == 'dark' else ''}": open_page(
                browser, url, complaints, viewport=size, color_scheme=scheme
            )
            for name, size in SIZES.items()
            for scheme in ("light", "dark")
        }
        calm = open_page(browser, url, complaints, reduced_motion="reduce")
        keys = open_page(browser, url, complaints, viewport=SIZES["1440"])
        wide = pages["1440"]
        expect(wide.get_by_role("status")).to_have_text("live")
        expect(number(wide, "Requests a second")).to_have_text("0")
        with load(urlsplit(url)):
            moves(wide)
            stays_calm(calm)
            by_keyboard(keys)
            wide.wait_for_timeout(seconds * 1000)
            for name, page in pages.items():
                page.locator("summary").first.press("Enter")
                take_picture(page, pictures / f"status-{name}.png")
        expect(number(wide, "Requests a second")).to_have_text("0", timeout=10_000)
        expect(wide.locator("#running")).to_contain_text("None.")
        browser.close()
    assert not complaints, complaints


def open_page(browser: Browser, url: str, complaints: list[str], **options: object) -> Page:
    """Open the status page; whatever is wrong with it is added to ``complaints``."""
    address = urlsplit(url)
    if viewport := options.pop("viewport", None):
        options["viewport"] = {"width": viewport[0], "height": viewport[1]}
    page = browser.new_context(
        http_credentials={"username": address.username or "", "password": address.password or ""},
        **options,
    ).new_page()

    def asked(request) -> None:
        if urlsplit(request.url).hostname not in (address.hostname, None):
            complaints.append(f"asked for {request.url}")

    def said(message) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("request", asked)
    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"http://{address.hostname}:{address.port}/-/greentor")
    return page


def number(page: Page, name: str):
    return page.locator("#now div", has=page.get_by_text(name, exact=True)).locator("dd")


@contextmanager
def load(address) -> Iterator[None]:
    """Have requests sent as long as the block runs."""
    over = Event()

    def client(path: str) -> None:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        while not over.is_set():
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, f"{path}: {answer.status}"
        connection.close()

    with ThreadPoolExecutor(sum(LOAD.values())) as executor:
        clients = [
            executor.submit(client, path) for path, many in LOAD.items() for _ in range(many)
        ]
        try:
            yield
        finally:
            over.set()
    for each in clients:
        each.result()


def moves(page: Page) -> None:
    """Numbers and plots must be different ones from second to second."""
    expect(number(page, "Requests a second")).not_to_have_text("0")
    expect(page.locator("figure")).to_have_count(6)
    for what in (
        "document.getElementById('now').innerText",
        "document.getElementById('plots').innerHTML",
    ):
        seen = set()
        for _ in range(4):
            seen.add(page.evaluate(what))
            page.wait_for_timeout(1200)
        assert len(seen) >= 3, f"{what} stands still"
    label = page.get_by_role("img").first.get_attribute("aria-label")
    assert "in use" in label, label
    assert page.locator("#slowest tbody tr").count() >= 3
    assert page.locator("#routes tbody tr").count() == len(LOAD)


def stays_calm(page: Page) -> None:
    """Who asked for little motion sees a new picture every five seconds only."""
    expect(page.locator("figure")).to_have_count(6, timeout=10_000)
    seen = []
    end = time.monotonic() + 6
    while time.monotonic() < end:
        text = page.evaluate("document.getElementById('now').innerText")
        if seen[-1:] != [text]:
            seen.append(text)
        page.wait_for_timeout(100)
    assert 2 <= len(seen) <= 3, seen


def by_keyboard(page: Page) -> None:
    """Stop the page and let it go on, and read a stack, without a mouse."""
    pause = page.get_by_role("button", name="Pause")
    page.keyboard.press("Tab")
    expect(pause).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("paused")
    before = page.evaluate("document.body.innerText")
    page.wait_for_timeout(2500)
    assert page.evaluate("document.body.innerText") == before
    page.keyboard.press("Space")
    expect(page.get_by_role("status")).to_have_text("live")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    first = page.locator("details").filter(has_text="/sleep").filter(has_text="the database").first
    first.locator("summary").press("Enter")
    page.wait_for_timeout(2500)  # events come, and it stays open
    opened = page.locator("details[open]").first
    expect(opened.locator("pre")).to_contain_text("sleep_in_database(ms)")
    opened.locator("summary").press("Enter")


def take_picture(page: Page, path: Path) -> None:
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{path.name} is {wide} pixels wider than its window"
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=path)
    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(
        path, optimize=True
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:]))
