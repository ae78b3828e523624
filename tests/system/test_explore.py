"""The explorer in a real browser: a press on a point, a lasso over all maps, and keys instead of a mouse."""

import base64
import math
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from pipeline.serving import PageServer
from stages.explorer.page import render
from stages.images.pixels import encode_png
from tests.stages.explorer import synthetic
from tests.system.test_page import CHROMIUM, UNREADABLE

pytestmark = pytest.mark.system

Window = tuple[Page, list[str]]
CONTENT = synthetic.content()
FIRST = ".map:nth-child(1) .field canvas + canvas"


@pytest.fixture(scope="module", params=["light", "dark"])
def window(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    """The page, and what the browser complained of or asked for."""
    path = tmp_path_factory.mktemp("explore") / "page.html"
    path.write_bytes(render(CONTENT))
    # Chromium keeps settings in the home folder, whatever profile it is given.
    environment: dict[str, str | float | bool] = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], env=environment
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=request.param)
        seen: list[str] = []
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda asked: seen.append(asked.url) if not asked.url.startswith("data:") else None)
        page.goto(path.as_uri())
        seen.remove(path.as_uri())
        yield page, seen
        browser.close()


def centre(page: Page, map_number: int = 1) -> tuple[float, float]:
    box: Any = page.locator(f".map:nth-child({map_number}) .field").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_press_on_a_point_shows_its_neighbours_at_each_tap(window: Window) -> None:
    page, seen = window
    x, y = centre(page)
    for step in range(400):
        # In a spiral from the middle until the mouse is on a point.
        page.mouse.move(x + step * math.cos(step / 3) / 2, y + step * math.sin(step / 3) / 2)
        if page.locator(".tip").is_visible():
            break
    name = page.locator(".tip strong").inner_text()
    page.mouse.down()
    page.mouse.up()
    assert page.locator("#image h2").inner_text() == name
    for tap, block in zip(CONTENT.taps, page.locator("#image .tap-block").all(), strict=True):
        words = block.locator("button canvas").evaluate_all("all => all.map((one) => one.ariaLabel)")
        near = tap.near[CONTENT.names.index(name)]
        assert [text[: len(CONTENT.names[i])] for text, i in zip(words, near, strict=True)] == [
            CONTENT.names[i] for i in near
        ]
    assert seen == []


def test_what_is_painted_from_an_image_is_shown_and_a_key_finds_one(window: Window) -> None:
    page, seen = window
    page.locator("#sought").fill(CONTENT.keys[30])
    page.keyboard.press("Enter")
    assert page.locator("#image h2").inner_text() == CONTENT.names[30]
    assert "Those of 4 images are" in page.locator("#image").inner_text()
    page.locator("#next").click()
    assert page.locator("#image h2").inner_text() == CONTENT.names[0]
    painted = page.locator("#image .tap-block").first.locator("span.picture canvas")
    assert painted.count() == synthetic.PER_SOURCE
    assert "painted from the vector of image 0" in str(painted.first.get_attribute("aria-label"))
    assert seen == []


def test_a_box_on_one_map_selects_on_all_and_escape_ends_it(window: Window) -> None:
    page, seen = window
    page.locator("[data-tool=box]").click()
    x, y = centre(page)
    page.mouse.move(x - 60, y - 150)
    page.mouse.down()
    page.mouse.move(x + 60, y + 150, steps=3)
    page.mouse.up()
    found = page.locator("#selection h2").inner_text()
    assert found.endswith("selected")
    assert 0 < int(found.split()[0]) < len(CONTENT.keys)
    assert page.locator("#selection .shares").last.locator("tr").count() == len(CONTENT.taps)
    page.locator(FIRST).focus()
    page.keyboard.press("Escape")
    assert page.locator("#selection").inner_text() == ""
    page.locator(".classes button").first.click()
    assert page.locator("#selection h2").inner_text() == f"{len(CONTENT.keys) // 3} images selected"
    page.locator(".classes button").first.click()
    page.locator("[data-tool=move]").click()
    assert seen == []


def test_text_can_be_read_every_picture_has_words_and_hostile_names_are_text(window: Window) -> None:
    page, seen = window
    page.locator(".classes button").first.click()
    checked, unreadable = page.evaluate(UNREADABLE)
    assert checked > 60
    assert unreadable == []
    silent = page.evaluate(
        "[...document.querySelectorAll('canvas')].filter((c) => !c.ariaHidden && !c.getAttribute('aria-label')).length"
    )
    assert silent == 0
    assert page.locator("main img").count() == 0
    assert synthetic.HOSTILE in page.locator(".classes").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert seen == []


def test_a_served_page_shows_the_neighbours_and_samples_of_an_image_that_is_chosen(window: Window) -> None:
    page, _ = window
    sent: list[bytes] = []

    def answer(image: bytes) -> dict[str, dict[str, Any]]:
        sent.append(image)
        near = {"near": [7, 5, 3, 2, 1], "distances": [0.1, 0.2, 0.3, 0.4, 0.5]}
        return {synthetic.TAPS[0]: near, synthetic.TAPS[1]: {"why": "This tap does not read pixels."}}

    picture = encode_png(np.zeros((8, 8, 3), dtype=np.uint8))

    def paint(image: bytes) -> dict[str, dict[str, Any]]:
        sample = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        return {synthetic.TAPS[0]: {"samples": [sample] * 3, "distance": 0.25, "rank": 2.0, "among": 41}}

    with PageServer(render(CONTENT, served=True), {"near": answer, "paint": paint}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        assert page.context.browser is not None
        context = page.context.browser.new_context()
        served = context.new_page()
        served.goto(server.url)
        served.locator("#file").set_input_files({"name": "mine.png", "mimeType": "image/png", "buffer": picture})
        served.locator("#image h2", has_text="mine.png").wait_for()
        served.locator("#image .guest img").first.wait_for()
        assert served.locator("#image .guest img").count() == 3
        assert "distance 0.25, the image's rank by them: 2 of 41" in served.locator("#image").inner_text()
        assert served.locator("#image .strip button").count() == synthetic.K
        assert "This tap does not read pixels." in served.locator("#image").inner_text()
        context.close()
        server.shutdown()
        thread.join()
    assert sent == [picture]
