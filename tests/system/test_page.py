"""The report in a real browser: headless Chromium, phone and desktop widths, light and dark."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from stages.report.stage import Report
from tests.artifacts import run_stage
from tests.stages.report import synthetic, thirteen

pytestmark = pytest.mark.system

CHROMIUM = "/usr/bin/chromium"
WIDTHS = {390: 844, 1440: 900}

UNREADABLE = """() => {
  // Contrast by WCAG 2.2 of every visible text against what is painted behind it.
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const painted = (colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let checked = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || element.closest("script, style, title, .hidden") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const behind = [];
    for (let e = element; e; e = e.parentElement) behind.unshift(getComputedStyle(e).backgroundColor);
    const back = painted(behind);
    const front = painted([...behind, element instanceof SVGElement ? style.fill : style.color]);
    const [high, low] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    checked += 1;
    if (contrast < 4.5) found.push(`${text.slice(0, 30)} (${element.className}): ${contrast.toFixed(2)}`);
  }
  return [checked, found];
}"""


@dataclass
class Opened:
    """A page, and what it did while it was opened."""

    page: Page
    messages: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(run_stage(Report(study="scenes"), synthetic.study()).objects["report.html"])
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of thirteen encoders."""
    path: Path = tmp_path_factory.mktemp("large") / "report.html"
    path.write_bytes(run_stage(Report(study="findings"), thirteen.study()).objects["report.html"])
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    # Chromium keeps settings in the home folder, whatever profile it is given.
    environment: dict[str, str | float | bool] = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))}
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], env=environment
        )
        yield started
        started.close()


def opened(
    browser: Browser, report: Path, width: int, scheme: Any = "light", fragment: str = "", **more: Any
) -> Opened:
    """The report in a fresh window, at `fragment`."""
    context = browser.new_context(
        viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme, reduced_motion="reduce", **more
    )
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.messages.append(message.text))
    found.page.on("pageerror", lambda error: found.messages.append(str(error)))
    found.page.on("request", lambda request: found.asked.append(request.url))
    found.page.goto(report.as_uri() + fragment)
    return found


@pytest.fixture(params=[(w, s) for w in WIDTHS for s in ("light", "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def window(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Opened]:
    found = opened(browser, report, *request.param)
    yield found
    found.page.context.close()


def test_nothing_is_complained_of_and_nothing_outside_is_asked_for(window: Opened, report: Path) -> None:
    window.page.mouse.wheel(0, 100_000)
    window.page.wait_for_timeout(200)
    assert window.messages == []
    assert [url for url in window.asked if not url.startswith("data:")] == [report.as_uri()]


def test_every_picture_is_shown_square_tile_by_tile(window: Opened) -> None:
    window.page.eval_on_selector_all("details", "all => all.forEach((one) => { one.open = true; })")
    pictures = window.page.eval_on_selector_all(
        "img",
        "all => all.map((i) => [i.naturalWidth, i.naturalHeight, i.clientWidth, i.clientHeight, "
        "getComputedStyle(i).imageRendering])",
    )
    assert len(pictures) > 100
    for natural_width, natural_height, width, height, rendering in pictures:
        assert natural_width > 0
        assert rendering == "pixelated"
        assert width * natural_height == pytest.approx(height * natural_width, rel=0.08)


def test_the_body_never_scrolls_sideways(window: Opened) -> None:
    window.page.eval_on_selector_all("details", "all => all.forEach((one) => { one.open = true; })")
    assert window.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_all_text_can_be_read_against_its_background(window: Opened) -> None:
    window.page.eval_on_selector_all("details", "all => all.forEach((one) => { one.open = true; })")
    checked, found = window.page.evaluate(UNREADABLE)
    assert checked > 800
    assert found == []


def test_every_cell_of_the_matrix_shows_a_number_and_a_word(window: Opened) -> None:
    words = {"kept", "partly", "lost", "decoder limit", "cannot tell"}
    cells = window.page.locator("button.cell")
    assert cells.count() == len(synthetic.KEPT) * len(synthetic.SUBJECTS)
    assert set(window.page.locator("button.cell .word").all_inner_texts()) == words
    cut = window.page.eval_on_selector_all(
        ".cell", "all => all.filter((c) => c.scrollWidth > c.clientWidth + 1).length"
    )
    assert cut == 0


def test_a_cell_says_why_when_it_is_pressed(window: Opened) -> None:
    cell = window.page.locator("button.cell.v-limit").first
    cell.click()
    why = window.page.locator(f'[id="{cell.get_attribute("popovertarget")}"]')
    assert why.is_visible()
    assert "The probe reads" in why.inner_text()
    box, size = why.bounding_box(), window.page.viewport_size
    assert box is not None
    assert size is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size["width"]
    window.page.keyboard.press("Escape")
    assert not why.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_button_turns_light_to_dark_and_back(browser: Browser, report: Path, scheme: str) -> None:
    found = opened(browser, report, 1440, scheme)
    ground = "getComputedStyle(document.body).backgroundColor"
    before = found.page.evaluate(ground)
    found.page.locator("button.theme").click()
    turned = found.page.evaluate(ground)
    assert turned != before
    checked, unreadable = found.page.evaluate(UNREADABLE)
    assert checked > 500
    assert unreadable == []
    found.page.locator("button.theme").click()
    assert found.page.evaluate(ground) == before
    found.page.context.close()


def test_a_tap_that_is_switched_off_leaves_every_section(browser: Browser, report: Path) -> None:
    found = opened(browser, report, 1440)
    chip = found.page.locator("button.chip", has_text="simclr:projector.0")
    marks = found.page.locator("main .tap-1:visible")
    assert marks.count() > 50
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert marks.count() == 0
    assert found.page.locator("main .tap-0:visible").count() > 50
    chip.click()
    assert marks.count() > 50
    found.page.context.close()


def test_the_page_is_whole_without_scripts(browser: Browser, report: Path) -> None:
    found = opened(browser, report, 1440, java_script_enabled=False)
    assert found.page.locator("section:visible").count() == 12
    assert not found.page.locator("button.theme").is_visible()
    assert not found.page.locator("button.copy").first.is_visible()
    found.page.locator("button.cell.v-kept").first.click()
    assert found.page.locator(".why:popover-open").count() == 1
    found.page.context.close()


def test_the_page_can_be_printed(browser: Browser, report: Path) -> None:
    found = opened(browser, report, 1440)
    found.page.emulate_media(media="print")
    found.page.set_viewport_size({"width": 760, "height": 1075})
    assert found.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not found.page.locator(".bar").is_visible()
    assert found.page.locator("button.cell").first.is_visible()
    assert found.page.pdf(format="A4").startswith(b"%PDF")
    found.page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_link_to_a_cell_opens_it(browser: Browser, large: Path, width: int) -> None:
    found = opened(browser, large, width, fragment="#kept/simclr_1:projector/x")
    why = found.page.locator(".why:popover-open")
    assert why.count() == 1
    assert "x at simclr_1:projector" in why.inner_text()
    assert found.messages == []
    found.page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_two_encoders_stand_side_by_side_where_a_link_or_the_reader_names_them(
    browser: Browser, large: Path, width: int
) -> None:
    found = opened(browser, large, width, fragment="#compare/shape_1/pattern_3")
    first = found.page.locator(".pair-table tbody tr").first
    assert first.locator("th").inner_text() in ("pattern", "shape")
    assert found.page.locator(".pair-table thead tr").first.all_inner_texts()[0].split() == ["shape_1", "pattern_3"]
    assert found.page.locator("#compared .strip-row").count() == 8
    found.page.select_option("#compare-one", "simclr_2")
    assert found.page.url.endswith("#compare/simclr_2/pattern_3")
    assert found.page.locator("#compared .strip-row").count() == 12
    assert found.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert found.messages == []
    found.page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_enlarge_by_keyboard_and_lead_to_their_neighbours(browser: Browser, large: Path, width: int) -> None:
    found = opened(browser, large, width)
    page = found.page
    card = page.locator("#samples .card").first
    card.locator("button.enlarge").focus()
    page.keyboard.press("Enter")
    title = page.locator("#enlarged-title")
    shown = title.inner_text()
    assert shown == card.locator("figcaption a").inner_text()
    small, tall = (page.locator(f"{at} .tiles img").first.bounding_box() for at in ("#samples .card", "dialog"))
    assert small is not None
    assert tall is not None
    assert tall["height"] > small["height"]
    page.keyboard.press("ArrowRight")
    assert title.inner_text() != shown
    page.keyboard.press("ArrowLeft")
    assert title.inner_text() == shown
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert found.messages == []
    page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_thirteen_encoders_fits_the_window_and_can_be_read(
    browser: Browser, large: Path, width: int
) -> None:
    found = opened(browser, large, width)
    assert found.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = found.page.eval_on_selector_all(".cell", "all => all.filter((c) => c.scrollWidth > c.clientWidth + 1).length")
    assert cut == 0
    checked, unreadable = found.page.evaluate(UNREADABLE)
    assert checked > 1000
    assert unreadable == []
    found.page.context.close()
