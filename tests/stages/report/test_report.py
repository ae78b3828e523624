"""The report: whole pages from made-up artifacts, read back as HTML."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.decoder.format import CARD
from stages.decoder.rcdm.format import AdmCard
from stages.decoder.rcdm.spec import AdmSettings
from stages.errors import FormatError
from stages.questions import answers
from stages.questions.format import RESULTS, Row
from stages.questions.kept import verdicts
from stages.report.stage import Report
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.report import synthetic

VOID = {"meta", "link", "img", "br", "wbr", "input", "hr"}


@dataclass
class Document(HTMLParser):
    """Tags, attributes and text of a page."""

    text: list[str] = field(default_factory=list)
    tags: Counter[str] = field(default_factory=Counter)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def values(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [value for _, found, value in self.attributes if found == name]

    def words(self) -> str:
        """All text, with single spaces."""
        return re.sub(r"\s+", " ", "".join(self.text))


def html(inputs: dict[str, MemoryArtifact], study: str = "scenes", title: str = "") -> str:
    """The page made of these artifacts."""
    return run_stage(Report(study=study, title=title), inputs).objects["report.html"].decode()


def parsed(page: str) -> Document:
    """The page read back; every tag that is opened is closed."""
    document = Document()
    document.feed(page)
    document.close()
    assert document.open == []
    return document


@pytest.fixture(scope="module")
def study() -> dict[str, MemoryArtifact]:
    return synthetic.study()


@pytest.fixture(scope="module")
def page(study: dict[str, MemoryArtifact]) -> str:
    return html(study)


@pytest.fixture(scope="module")
def document(page: str) -> Document:
    return parsed(page)


def test_the_page_asks_for_nothing_outside_itself(page: str, document: Document) -> None:
    assert {value.partition(":")[0] for value in document.values("src")} == {"data"}
    links = [value for value in document.values("href") if not value.startswith(("#", "data:"))]
    assert links == ["https://arxiv.org/abs/2112.09164"]
    assert "url(" not in page
    assert "@import" not in page
    assert document.tags["script"] == 1


def test_equal_inputs_give_equal_bytes() -> None:
    assert html(synthetic.study()) == html(synthetic.study())


def test_the_page_of_the_made_up_study_weighs_less_than_six_megabytes(page: str) -> None:
    assert len(page.encode()) < 6_000_000


def test_sections_stand_in_the_order_in_which_a_reader_needs_them(document: Document) -> None:
    anchors = [value for tag, name, value in document.attributes if (tag, name) == ("section", "id")]
    assert anchors == [
        "verdicts", "findings", "kept", "differences", "twins", "samples", "maps", "faithfulness", "invariance",
        "measures", "training", "artifacts",
    ]  # fmt: skip


def test_every_link_inside_the_page_has_its_target_and_no_id_stands_twice(document: Document) -> None:
    ids = document.values("id")
    assert len(ids) == len(set(ids))
    wanted = [value[1:] for value in document.values("href") if value.startswith("#")]
    assert set(wanted) | set(document.values("popovertarget")) | set(document.values("data-copy")) <= set(ids)


def test_every_picture_says_in_words_what_it_shows(document: Document) -> None:
    assert document.tags["img"] == len([value for value in document.values("alt") if value])


def test_every_verdict_stands_as_a_word_beside_its_symbol(page: str, study: dict[str, MemoryArtifact]) -> None:
    given_by_rule = Counter(row.verdict for row in answers.read("kept", study["results.kept"]).where("kept"))
    for verdict, style in (
        ("KEPT", "v-kept"),
        ("LOST", "v-lost"),
        ("DECODER LIMIT", "v-limit"),
        ("PARTLY", "v-partly"),
    ):
        cells = re.findall(rf'<button class="cell {style}".*?</button>', page, re.DOTALL)
        assert len(cells) == given_by_rule[verdict] > 0
        assert all(f'href="#{style}"' in cell and f">{verdict.lower()}</span>" in cell for cell in cells)


def test_the_page_says_what_the_listing_left_out(page: str) -> None:
    sentence = "2 files or folders are not read, by kind: 2 x .heic (<b>/1.heic)"
    inputs = synthetic.study()
    inputs["shards"].summary = inputs["shards"].summary | {"left_out": [sentence]}
    found = html(inputs)
    assert sentence in parsed(found).words()
    assert "<b>/1.heic" not in found
    assert "left out" not in page


def test_a_cell_says_why(document: Document, study: dict[str, MemoryArtifact]) -> None:
    words = document.words()
    for row in answers.read("kept", study["results.kept"]).where("kept"):
        assert row.why in words


def test_each_tap_gets_the_sentence_of_the_rules(document: Document, study: dict[str, MemoryArtifact]) -> None:
    rows = answers.read("kept", study["results.kept"]).where("kept")
    own = [(row.subject.replace("_", " "), row.verdict) for row in rows if answers.tap_id_of(row) == "simclr:projector"]
    sentence = verdicts.sentence("", own).strip()
    assert sentence[1:] in document.words()


@pytest.mark.parametrize(
    ("near", "title", "sign"),
    [
        (0.7, "This encoder cannot tell these apart", "≈"),
        (1.4, "Two samples of one vector, not near enough to be twins", "not shown to be twins"),
        (None, "Two samples of one vector, not near enough to be twins", "was not measured"),
    ],
)
def test_samples_are_called_twins_only_where_they_are_faithful(near: float | None, title: str, sign: str) -> None:
    tiles = np.zeros((1, 3, 4, 4, 3), dtype=np.uint8)
    figure = synthetic.figure("twins", "simclr:backbone", tiles, ["image 1"], ["source", "twin a", "twin b"], 0)
    rows = [synthetic.row("kept", "kept", "simclr:backbone", "hue", 0.1, low=0.0, high=0.2, verdict="LOST", why="-")]
    rows += [] if near is None else [synthetic.row("kept", "nearness", "simclr:backbone", "", near)]
    inputs = {"results.kept": synthetic.answer("kept", rows, [figure]), "encoder.simclr": MemoryArtifact(key="k")}
    words = parsed(html(inputs)).words()
    assert title in words
    assert sign in words
    assert ("≈" in words) == (sign == "≈")


def test_findings_say_what_the_rules_found(document: Document) -> None:
    words = document.words()
    assert "Finding i · simclr" in words
    assert "Finding ii · simclr" in words
    assert words.count(" shown ") >= 2


def test_taps_of_an_extension_are_marked_and_the_page_says_what_their_comparisons_are(
    study: dict[str, MemoryArtifact], page: str
) -> None:
    assert "across trainings" not in page
    assert "<sup" not in page
    tap_id = "simclr:projector.0"
    taught = json.loads(study["decoder"].objects[CARD])
    taught["taps"] = {tap_id: taught["taps"][tap_id]}
    taught["curve"] = [point | {"heldout": {tap_id: point["heldout"][tap_id]}} for point in taught["curve"]]
    taught["extends"] = {"key": study["decoder"].key, "taps": ["simclr:backbone", "simclr:projector"]}
    extension = MemoryArtifact({CARD: json.dumps(taught).encode()}, key=synthetic.key("extension"))
    extension.summary = {"taps": taught["taps"]}
    extended = html(study | {"extension.1": extension})
    words = parsed(extended).words()
    assert "with its weights frozen: simclr:projector.0 (+1). A comparison" in words
    assert "across trainings" in words
    assert "Extension 1" in words
    assert "The decoder for simclr:backbone, simclr:projector, its weights frozen, taught 1 tap, 32 px" in words
    marked = set(re.findall(r"<wbr>([^<]*)<sup", extended))
    assert marked == {"projector.0"}


def test_thresholds_and_keys_and_the_command_are_printed(document: Document, study: dict[str, MemoryArtifact]) -> None:
    words = document.words()
    assert verdicts.THRESHOLDS in words
    assert "repscope run scenes" in words
    assert all(artifact.key in words for artifact in study.values())


def test_the_page_says_when_and_with_what_the_decoder_was_trained(document: Document) -> None:
    words = document.words()
    assert "trained2026-11-22" in words
    assert "withrepscope 0.1.0, torch 2.14.1+cu130, ray 2.60.0, zarr 3.1.6" in words
    assert words.count("Trained with Python 3.11.2, repscope 0.1.0") == 2


def test_a_decoder_with_published_weights_is_shown_without_a_training(study: dict[str, MemoryArtifact]) -> None:
    card = AdmCard(
        taps={"simclr:backbone": 256}, size=128, network=AdmSettings(), schedule="linear", steps=1000,
        precision="float32", weights={"final": ("weights-00000.safetensors",)}, published_sha256="0" * 64,
    )  # fmt: skip
    decoder = MemoryArtifact({CARD: card.model_dump_json().encode()}, key="d")
    decoder.summary = {"taps": card.taps, "published_sha256": card.published_sha256}
    words = parsed(html({"results.kept": study["results.kept"], "decoder": decoder})).words()
    assert "one for 1 tap, published" in words
    assert "One decoder for 1 tap, 128 px, with weights as they were published." in words


def test_the_spread_of_the_ranks_stands_beside_their_gallery_and_their_controls(
    document: Document, page: str, study: dict[str, MemoryArtifact]
) -> None:
    words = document.words()
    assert "share of samples by rank of their source, 2 000 held-out images" in words
    (ranks,) = (
        found.ranks
        for found in answers.read("faithfulness", study["results.faithfulness"]).ranks
        if (found.tap_id, found.subject) == ("simclr:projector", "samples")
    )
    first, ten = (ranks == 1).mean(), (ranks <= 10).mean()
    assert f"source first {100 * first:.0f} %, among the first ten {100 * ten:.0f} %" in words
    spreads = re.findall(r'<figure id="faithfulness/[^"]*" class="tap-\d+">.*?</figure>', page, re.DOTALL)
    assert len(spreads) == 4
    assert all(spread.count('<polyline class="line control control-') == 4 for spread in spreads)


def test_an_answer_of_before_without_single_ranks_is_shown_without_their_spread(
    study: dict[str, MemoryArtifact],
) -> None:
    old = MemoryArtifact({RESULTS: study["results.faithfulness"].objects[RESULTS]})
    words = parsed(html({"results.faithfulness": old})).words()
    assert "Median rank" in words
    assert "How the ranks are spread" not in words


def test_a_number_that_is_none_is_a_dash() -> None:
    rows = [
        synthetic.row("kept", "kept", "oracle:pixels", "hue", float("nan"), verdict="CANNOT TELL", why="undefined"),
        synthetic.row("kept", "kept", "oracle:pixels", "x", 0.5, low=0.4, high=0.6, verdict="PARTLY", why="between"),
    ]
    page = html({"results.kept": synthetic.answer("kept", rows)})
    assert "<b>–</b>" in page
    assert not re.search(r"\bnan\b", parsed(page).words().lower())


@pytest.mark.parametrize("names", [(), ("results.kept",), ("results.faithfulness",), ("results.invariance", "decoder")])
def test_what_is_not_given_is_left_out(names: tuple[str, ...], study: dict[str, MemoryArtifact]) -> None:
    document = parsed(html({name: study[name] for name in names}))
    anchors = {value for tag, name, value in document.attributes if (tag, name) == ("section", "id")}
    assert {"measures", "artifacts"} <= anchors
    assert ("kept" in anchors) == ("results.kept" in names)
    assert ("faithfulness" in anchors) == ("results.faithfulness" in names)


def test_without_an_encoder_under_study_the_references_stand_alone(study: dict[str, MemoryArtifact]) -> None:
    rows = [row for row in answers.read("kept", study["results.kept"]).rows if row.encoder in ("", "oracle")]
    words = parsed(html({"results.kept": synthetic.answer("kept", rows)})).words()
    assert "oracle:attributes" in words
    assert "simclr" not in words


def test_a_question_without_a_section_of_its_own_is_shown_all_the_same() -> None:
    rows = [synthetic.row("interpolation", "smoothness", "simclr:backbone", "path", 0.25, low=0.2, high=0.3)]
    tiles = np.zeros((1, 3, 8, 8, 3), dtype=np.uint8)
    figure = synthetic.figure("path", "simclr:backbone", tiles, ["image 1"], ["0", "1/2", "1"], 0, "A path.")
    document = parsed(html({"results.interpolation": synthetic.answer("interpolation", rows, [figure])}))
    assert "Interpolation" in document.words()
    assert "0.250 [0.200, 0.300]" in document.words()
    assert "A path." in document.words()
    assert document.tags["img"] == 1


def test_an_answer_without_rows_is_refused() -> None:
    with pytest.raises(FormatError, match=r"results\.parquet in the answer to `kept`"):
        html({"results.kept": MemoryArtifact({"figures/x.json": b"{}"})})


def test_a_figure_of_another_size_than_it_says_is_refused() -> None:
    tiles = np.zeros((1, 2, 8, 8, 3), dtype=np.uint8)
    figure = synthetic.figure("grid", "simclr:backbone", tiles, ["image 1"], ["source", "k = 0"], 0)
    artifact = synthetic.answer("kept", [], [figure])
    name = f"figures/{figure.name}.json"
    artifact.objects[name] = json.dumps(json.loads(artifact.objects[name]) | {"tile_px": 9}).encode()
    with pytest.raises(FormatError, match="18 x 9 pixels; found 16 x 8"):
        html({"results.kept": artifact})


def names() -> Iterator[str]:
    """Names that would break a page that does not escape them."""
    yield from (
        "<script>alert(1)</script>",
        "</style><img src=x onerror=alert(1)>",
        '"><svg onload=alert(1)>',
        "' onmouseover='alert(1)",
        "{{ 7 * 7 }}{% raw %}",
        "&lt;b&gt;&amp;",
        "]]><!-- -->",
        "\u202e\u0007 évil \U0001f600",
    )


NASTY = st.one_of(
    st.sampled_from(list(names())),
    # Begun with a character of no known name: `backbone` and its like have marks of their own.
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r:"), max_size=30).map("~{}".format),
)


@settings(max_examples=40)
@given(encoder=NASTY, tap=NASTY, subject=NASTY, title=NASTY, study=NASTY, why=NASTY)
def test_what_users_name_reaches_the_page_as_text_only(
    encoder: str, tap: str, subject: str, title: str, study: str, why: str
) -> None:
    def rows(nasty: bool) -> list[Row]:
        at = f"{encoder}:{tap}" if nasty else "one:tap"
        about = subject if nasty else "subject"
        return [
            synthetic.row("kept", "reader", "", about, 0.99, unit=subject if nasty else "R2"),
            synthetic.row("kept", "kept", at, about, 0.5, low=0.4, high=0.6, verdict="KEPT", why=why if nasty else ""),
        ]

    def document_of(nasty: bool) -> Document:
        at, label = (f"{encoder}:{tap}", subject) if nasty else ("one:tap", "image")
        tiles = np.zeros((1, 6, 4, 4, 3), dtype=np.uint8)
        columns = [label, *(f"{number} {label}" for number in range(5))]
        figures = [
            synthetic.figure(kind, at, tiles[:, :count], [label], columns[:count], 0, label)
            for kind, count in (("grid", 6), ("twins", 3), ("maps", 2))
        ]
        for number, figure in enumerate(figures):
            object.__setattr__(figure, "name", f"figure-{number}")
        inputs = {"results.kept": synthetic.answer("kept", rows(nasty), figures)}
        inputs[f"encoder.{encoder if nasty else 'one'}"] = MemoryArtifact(key="k")
        return parsed(html(inputs, study if nasty else "study", title if nasty else "title"))

    plain, nasty = document_of(False), document_of(True)
    assert nasty.tags == plain.tags
    assert {(tag, name) for tag, name, _ in nasty.attributes} == {(tag, name) for tag, name, _ in plain.attributes}
    squeezed = re.sub(r"\s+", " ", title).strip()
    assert squeezed in nasty.words()
