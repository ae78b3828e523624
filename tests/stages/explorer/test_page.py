"""The page of the explorer as text: whole, escaped, and without anything from outside."""

import base64
import json
from html.parser import HTMLParser

import numpy as np

from stages.explorer.page import render
from tests.stages.explorer import synthetic


class Elements(HTMLParser):
    """Every element with its attributes, and the text inside scripts and the title."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "title": [], "style": []}
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag in self.texts:
            self.texts[self.lasttag].append(data)


def test_hostile_names_are_text_and_nothing_is_asked_from_outside() -> None:
    content = synthetic.content()
    page = Elements(render(content))
    assert "".join(page.texts["title"]).strip() == f"Explore {content.study}"
    assert [tag for tag, _ in page.found].count("script") == 2
    assert not [attributes for tag, attributes in page.found if tag in ("img", "iframe")]
    assert [attributes for _, attributes in page.found if "src" in attributes] == []
    assert [attributes["href"] for _, attributes in page.found if "href" in attributes] == ["data:,"]
    data = json.loads(page.texts["script"][0])
    assert data["study"] == content.study
    assert data["names"] == list(content.names)
    assert data["labels"][0]["classes"] == list(synthetic.CLASSES)


def test_the_policy_of_a_page_allows_a_server_only_where_one_serves_it() -> None:
    content = synthetic.content(painted=0)
    assert b"connect-src 'none'" in render(content)
    assert b"connect-src 'self'" in render(content, served=True)


def test_the_data_are_those_of_the_content_and_equal_content_gives_equal_bytes() -> None:
    content = synthetic.content()
    page = render(content)
    assert page == render(content)
    data = json.loads(Elements(page).texts["script"][0])
    tap = data["taps"][1]
    assert tap["id"] == synthetic.TAPS[1]
    near = np.frombuffer(base64.b64decode(tap["near"]), "<u4").reshape(-1, tap["k"])
    assert np.array_equal(near, content.taps[1].near)
    points = np.frombuffer(base64.b64decode(tap["maps"][0]["points"]), "<f4").reshape(-1, 2)
    np.testing.assert_allclose(points, content.taps[1].maps[0].points, rtol=1e-6)
    assert tap["kept"]["shape"]["verdict"] == "kept"
