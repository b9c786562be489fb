"""Walk through the application in a headless Chromium, by keyboard, and take pictures of its pages.

    python3 -m venv .cache/browser && .cache/browser/bin/pip install playwright pillow
    .cache/browser/bin/python -m tests.browser.walk http://127.0.0.1:8000/ PICTURES

`make run` serves the pages. Not part of `make test`. It adds a book, whose name is new each time, and fails
if a step does not lead where it should, or if a page is wider than its window.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

WIDTHS = {"360": (360, 740), "1440": (1440, 900)}


def main(url: str, pictures: Path) -> None:
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        for name, (width, height) in WIDTHS.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page = context.new_page()
                page.goto(url)
                walk(page, pictures, name if scheme == "light" else f"{name}-dark")
                context.close()
        browser.close()


def walk(page: Page, pictures: Path, suffix: str) -> None:
    """Do what a visitor does who has no mouse."""

    def picture(name: str) -> None:
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{name} is {wide} pixels wider than its window"
        path = pictures / f"{name}-{suffix}.png"
        page.screenshot(path=path, full_page=True)
        Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(
            path, optimize=True
        )

    def follow(text: str) -> None:
        """Go to a link or button by the Tab key alone, and press Enter."""
        for _ in range(80):
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.innerText")
            if focused == text:
                page.keyboard.press("Enter")
                return
        raise AssertionError(f"the Tab key never came to {text!r} on {page.url}")

    def heading(text: str) -> None:
        expect(page.get_by_role("heading", level=1)).to_have_text(text)

    picture("home")
    follow("Books")
    heading("Books")
    picture("list")
    follow("Next")
    expect(page.get_by_text("Page 2 of")).to_be_visible()
    follow("Add a book")
    heading("Add a book")

    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("This field is required.")).to_have_count(4)
    expect(page.get_by_label("Name")).to_be_focused()
    picture("add-empty")

    book = f"Ulysses <{time.time():.3f}>"
    fill(page, "Emma", "James Joyce", "1922", "12.50")
    name = page.get_by_label("Name")
    expect(name).to_be_focused()
    error = name.get_attribute("aria-describedby")
    expect(page.locator(f"#{error}")).to_have_text("There is a book of this name already.")
    picture("add-refused")

    page.keyboard.press("Control+A")
    page.keyboard.type(book)
    page.keyboard.press("Enter")
    heading(book)
    assert "/books/detail/" in page.url
    picture("detail")
    follow("async code makes the same")
    heading(book)
    assert "/async/books/detail/" in page.url

    follow("All books")
    search = page.get_by_label("Book or author")
    for _ in range(20):
        page.keyboard.press("Tab")
        if search.evaluate("field => field === document.activeElement"):
            break
    page.keyboard.type("zola")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("2 books found")
    picture("search")
    page.goto(page.url.replace("zola", "%25%3Cb%3E"))
    expect(page.get_by_role("status")).to_contain_text("0 books found for “%<b>”")
    picture("search-empty")

    follow("Concurrency")
    heading("What ran when")
    expect(page.get_by_role("img")).to_have_count(4)
    picture("concurrency")
    for summary in page.locator("summary").all():
        summary.press("Enter")
    picture("concurrency-open")
    page.goto(page.url + "/nowhere")
    heading("404 Not Found")
    picture("not-found")


def fill(page: Page, *values: str) -> None:
    """Type the values into the fields from the focused one on, and send the form."""
    for value in values:
        page.keyboard.type(value)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
