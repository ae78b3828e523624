"""The explorer in headless Chromium: what a frame of panning and zooming takes.

    python -m tests.benchmarks.explorer [POINTS]

Prints; asserts nothing. A page of 20 000 made-up images at two taps is opened in a window of 1440 x 1000. One map is
zoomed and moved in every frame, 60 frames of each way of showing images. A frame is the time from one to the next, so
16.7 ms at the least where the browser draws 60 in a second. Beside it stands the CPU time of a frame, which a busy
machine changes less: of the page's main thread, which draws, and of all processes of the browser together.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

import psutil
from playwright.sync_api import CDPSession, sync_playwright

from stages.explorer.page import render
from tests.stages.explorer import synthetic

CHROMIUM = "/usr/bin/chromium"
POINTS, FRAMES, PAINTED = 20_000, 60, 128

MOVE = """async (frames) => {
  const over = document.querySelector(".field canvas + canvas");
  over.focus();
  const next = () => new Promise(requestAnimationFrame);
  const between = [];
  let last = await next();
  for (let n = 0; n < frames; n++) {
    const { left, top, width, height } = over.getBoundingClientRect();
    const place = { clientX: left + width / 3, clientY: top + height / 3, cancelable: true, bubbles: true };
    over.dispatchEvent(new WheelEvent("wheel", { ...place, deltaY: n % 20 < 10 ? -60 : 60 }));
    over.dispatchEvent(new KeyboardEvent("keydown", { key: n % 2 ? "ArrowLeft" : "ArrowUp", cancelable: true }));
    const now = await next();
    between.push(now - last);
    last = now;
  }
  return between;
}"""


def main(words: list[str]) -> None:
    """Prints median and 95 % of the frames, for points, for a selection and for pictures."""
    points = int(words[0]) if words else POINTS
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder, "page.html")
        page.write_bytes(render(synthetic.content(points, PAINTED, near=False)))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        window = browser.new_page(viewport={"width": 1440, "height": 1000})
        session = window.context.new_cdp_session(window)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        window.goto(page.as_uri())
        print(f"{browser.version}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; {points:,} points a map")
        for name in ("points", "a third of them selected", "pictures"):
            if name == "pictures":
                window.select_option("#mode", name)
            elif name != "points":
                window.locator(".classes button").first.click()
            window.wait_for_timeout(1000)
            before = main_thread_seconds(session), cpu_seconds()
            between = window.evaluate(MOVE, FRAMES)
            used = main_thread_seconds(session) - before[0], cpu_seconds() - before[1]
            most = statistics.quantiles(between, n=20)[-1]
            print(
                f"  {name:<26} frame: median {statistics.median(between):5.1f} ms, 95 % {most:5.1f} ms; "
                f"CPU: main thread {1e3 * used[0] / FRAMES:5.1f} ms, all processes {1e3 * used[1] / FRAMES:5.1f} ms"
            )
        browser.close()


def main_thread_seconds(session: CDPSession) -> float:
    """CPU time that the page's main thread has worked."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))


def cpu_seconds() -> float:
    """CPU time of all processes that this one has started."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return float(sum(time.user + time.system for time in times))


if __name__ == "__main__":
    main(sys.argv[1:])
