"""The page of thirteen encoders: what it opens with, and how a reader finds a cell of it again."""

import re

import pytest

from stages.questions import answers
from stages.questions.drawing.markup import anchor
from stages.report.page import Page, page_of
from stages.report.stage import Report
from tests.artifacts import MemoryArtifact
from tests.stages.report import synthetic, thirteen
from tests.stages.report.test_report import Document, parsed


@pytest.fixture(scope="module")
def study() -> dict[str, MemoryArtifact]:
    return thirteen.study()


@pytest.fixture(scope="module")
def made(study: dict[str, MemoryArtifact]) -> tuple[Page, bytes]:
    return page_of(Report(study="findings"), study)


@pytest.fixture(scope="module")
def document(made: tuple[Page, bytes]) -> Document:
    return parsed(made[1].decode())


def test_the_page_opens_with_the_widest_contrast_and_goes_on_to_smaller_ones(made: tuple[Page, bytes]) -> None:
    page, html = made
    assert page.example is not None
    assert [painted.tap.tap for painted in page.example.taps] == ["backbone", "backbone"]
    assert re.search(r":backbone keeps <strong>pattern</strong>; shape_\d:backbone has lost it", html.decode())
    strengths = [max(remark.strength for remark in family.remarks) for family in page.verdicts if family.first.studied]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] > 0.8
    anchors = re.findall(r'<li class="family [^"]*" id="verdicts/([^"/]*)"', html.decode())
    assert anchors == [anchor(family.name) for family in page.verdicts]


def test_encoders_that_differ_in_the_seed_alone_share_a_card_and_a_colour(made: tuple[Page, bytes]) -> None:
    page, _ = made
    families = {family.name: family for family in page.verdicts}
    assert set(families) == {"simclr", "vicreg", "shape", "pattern", "for reference"}
    assert families["simclr"].encoders == ("simclr_1", "simclr_2", "simclr_3")
    colours = {tap.family: {other.colour for other in page.taps if other.family == tap.family} for tap in page.taps}
    assert all(len(own) == 1 for own in colours.values())
    assert len({colours[name].pop() for name in ("simclr", "vicreg", "shape", "pattern")}) == 4
    assert len({(tap.shape, tap.colour) for tap in page.taps}) == len(page.taps)


def test_the_verdict_on_every_encoder_is_in_plain_words(made: tuple[Page, bytes]) -> None:
    said = {
        family.name: re.sub("<[^>]*>", "", str(family.remarks[0].text)) for family in made[0].verdicts if family.remarks
    }
    assert said["shape"].startswith("Has lost pattern, which simclr, vicreg and pattern keep")
    assert said["pattern"].startswith("Keeps pattern, which shape has lost")
    assert "(pattern: kept 0." in said["pattern"]
    inside = [str(remark.text) for family in made[0].verdicts for remark in family.remarks if family.name == "simclr"]
    assert any(re.match(r"(Loses|Keeps less of) <strong>background hue</strong>", text) for text in inside)


def test_every_cell_has_a_link_of_its_own(document: Document, study: dict[str, MemoryArtifact]) -> None:
    ids = document.values("id")
    assert len(ids) == len(set(ids))
    assert not [name for name in ids if re.search(r"\s", name) or not name.isascii()]
    for row in answers.read("kept", study["results.kept"]).where("kept"):
        assert f"kept/{row.encoder}:{row.tap}/{row.subject}" in ids
    assert {"robustness/backbone/shape_1/simclr_2", "edits/simclr_1:projector/hue", "samples/image+9037"} <= set(ids)
    wanted = {value[1:] for value in document.values("href") if value.startswith("#")}
    assert wanted | set(document.values("popovertarget")) <= set(ids)


def test_different_names_have_different_links() -> None:
    names = ["a b", "a+b", "a%20b", "a/b", "ä", "<b>", "", "background_hue", "simclr:projector.0"]
    assert len({anchor("kept", name) for name in names}) == len(names)
    assert anchor("kept", "simclr:projector.0", "background_hue") == "kept/simclr:projector.0/background_hue"


def test_the_matrix_has_a_line_for_every_tap_and_a_word_in_every_cell(made: tuple[Page, bytes]) -> None:
    html = made[1].decode()
    table = html[html.index('<table class="compact"') :].partition("</table>")[0]
    assert table.count('<th scope="row">') == len(thirteen.KEPT)
    cells = re.findall(r'<button class="cell [^>]*aria-label="([^"]*)"', table)
    assert len(cells) == len(thirteen.KEPT) * len(synthetic.SUBJECTS)
    assert "pattern at shape_1:backbone: 0.0" in "\n".join(cells)
    words = re.compile(r", (kept|partly|lost|decoder limit|cannot tell)$")
    assert all(words.search(cell) for cell in cells)


def test_any_two_encoders_may_stand_side_by_side_and_those_of_the_strongest_contrast_do_at_first(
    made: tuple[Page, bytes], document: Document
) -> None:
    page, _ = made
    assert page.comparable
    assert page.example is not None
    assert set(page.pair) == {painted.tap.encoder for painted in page.example.taps}
    assert document.tags["option"] == 2 * len(page.compared)
    assert len([name for tag, name, _ in document.attributes if (tag, name) == ("option", "selected")]) == 2


def test_findings_at_many_encoders_are_counted(document: Document) -> None:
    words = document.words()
    assert [name for name in document.values("id") if name.startswith("findings/") and name.count("/") == 1] == [
        f"findings/{number}" for number in ("i", "ii", "iii", "iv")
    ]
    assert "shown in 6 of 6 encoders" in words
    assert "shown in 12 of 12 encoders" in words


def test_every_picture_and_chart_says_in_words_what_it_shows(document: Document) -> None:
    assert document.tags["img"] == len([value for value in document.values("alt") if value])
    charts = [value for tag, name, value in document.attributes if (tag, name) == ("svg", "role")]
    assert len(charts) == len([1 for tag, name, value in document.attributes if (tag, name) == ("svg", "aria-label")])


def test_every_figure_can_be_enlarged_with_the_keyboard(made: tuple[Page, bytes]) -> None:
    figures = re.findall(r'<figure class="[^"]*enlarges.*?</figure>', made[1].decode(), re.DOTALL)
    assert len(figures) > 20
    assert all('<button class="enlarge" type="button"' in figure for figure in figures)


def test_a_page_that_would_be_too_large_shows_fewer_sources_and_says_so(
    study: dict[str, MemoryArtifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.report.page.LARGEST", 1)
    monkeypatch.setattr("stages.report.page.FEWER", (2,))
    _, html = page_of(Report(study="findings"), {"results.kept": study["results.kept"]})
    assert html.count(b'<figure class="card') == 2
    assert b"No figure shows more than 2" in html
