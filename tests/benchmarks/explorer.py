"""The explorer in headless Chromium: what a frame of panning and zooming takes.

    python -m tests.benchmarks.explorer [POINTS]

Prints; asserts nothing. A page of 20 000 made-up images at two taps is opened in a window of 1440 x 1000. One map is
zoomed and moved in every frame, 60 frames of each way of showing images. A frame is the time from one to the next, so
16.7 ms at the least where the browser draws 60 in a second; what the script takes of it stands beside it.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from stages.explorer.page import render
from tests.stages.explorer import synthetic

CHROMIUM = "/usr/bin/chromium"
POINTS, FRAMES, PAINTED = 20_000, 60, 128

MOVE = """async (frames) => {
  const over = document.querySelector(".field canvas + canvas");
  over.focus();
  const next = () => new Promise(requestAnimationFrame);
  const between = [], script = [];
  let last = await next();
  for (let n = 0; n < frames; n++) {
    const { left, top, width, height } = over.getBoundingClientRect();
    const place = { clientX: left + width / 3, clientY: top + height / 3, cancelable: true, bubbles: true };
    over.dispatchEvent(new WheelEvent("wheel", { ...place, deltaY: n % 20 < 10 ? -60 : 60 }));
    over.dispatchEvent(new KeyboardEvent("keydown", { key: n % 2 ? "ArrowLeft" : "ArrowUp", cancelable: true }));
    // What was asked for is drawn in the next frame, before this promise is kept.
    const now = await next();
    script.push(performance.now() - now);
    between.push(now - last);
    last = now;
  }
  return [between, script];
}"""


def main(words: list[str]) -> None:
    """Prints median and 95 % of the frames, for points, for a selection and for pictures."""
    points = int(words[0]) if words else POINTS
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder, "page.html")
        page.write_bytes(render(synthetic.content(points, PAINTED, near=False)))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        window = browser.new_page(viewport={"width": 1440, "height": 1000})
        window.goto(page.as_uri())
        print(f"{browser.version}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; {points:,} points a map")
        for name in ("points", "a third of them selected", "pictures"):
            if name == "pictures":
                window.select_option("#mode", name)
            elif name != "points":
                window.locator(".classes button").first.click()
            window.wait_for_timeout(1000)
            between, script = window.evaluate(MOVE, FRAMES)
            for what, found in (("frame", between), ("script", script)):
                most = statistics.quantiles(found, n=20)[-1]
                print(f"  {name:<26} {what:<7} median {statistics.median(found):6.1f} ms, 95 % {most:6.1f} ms")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
