"""Health from end to end: an encoder, the same untrained, and the oracle; rules, rows and the section."""

import numpy as np
import pytest

from pipeline.graph import graph_of
from pipeline.study import load
from stages.contract import Estimate
from stages.embeddings.format import ROWS, open_table
from stages.embeddings.stage import Embeddings
from stages.encoders.card import CARD, ImportedCard
from stages.encoders.spec import EncoderSpec, Pretrained, Untrained
from stages.errors import FormatError, InputError
from stages.parquet import table_bytes, table_from
from stages.questions.answers import read
from stages.questions.drawing import taps as styles
from stages.questions.format import Row, load_rows
from stages.questions.health import verdicts
from stages.questions.health.answer import rows_by_key, untrained_twin
from stages.questions.health.section import section
from stages.questions.health.stage import Health
from tests.artifacts import MemoryArtifact, run_stage
from tests.finished import MICRO
from tests.stages.questions.painters import ARCHITECTURE, PREPROCESSING, SPECS, embedded

STAGE = Health(count=80, neighbours=5)
TAPS = ("backbone", "projector.0", "projector")


@pytest.fixture(scope="module")
def inputs() -> dict[str, MemoryArtifact]:
    """Tables of two encoders of one network, an untrained one like it, and the oracle."""
    raw = Untrained(architecture=ARCHITECTURE, preprocessing=PREPROCESSING, seed=7)
    found = embedded({**SPECS, "raw": raw})
    again = {"encoder.again": found["encoder.small"], "embeddings.again": found["embeddings.small"]}
    return found | again


@pytest.fixture(scope="module")
def answer(inputs: dict[str, MemoryArtifact]) -> MemoryArtifact:
    return run_stage(STAGE, inputs)


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    """Rows of a metric by (tap, subject)."""
    found = load_rows(answer.objects["results.parquet"])
    return {(f"{r.encoder}:{r.tap}", r.subject): r for r in found if r.metric == metric}


def test_every_tap_of_every_table_is_measured_beside_its_untrained_network(answer: MemoryArtifact) -> None:
    ranks, floors = rows(answer, "effective rank"), rows(answer, "effective rank floor")
    taps = [f"{encoder}:{tap}" for encoder in ("again", "raw", "small") for tap in TAPS]
    assert ranks.keys() == {(tap, "") for tap in [*taps, "oracle:attributes", "oracle:pixels"]}
    assert floors.keys() == {(tap, "") for tap in taps if not tap.startswith("raw")}
    assert floors["small:backbone", ""].value == ranks["raw:backbone", ""].value
    assert floors["small:backbone", ""].why == "raw:backbone, untrained"
    small = ranks["small:backbone", ""]
    assert 1 <= small.value <= 8
    assert np.isnan(small.low)
    assert (small.n, small.unit) == (80, "directions of 8")
    for metric in ("alignment", "uniformity", "norm", "norm variation"):
        found, gaps = rows(answer, metric), rows(answer, f"{metric} - floor")
        below = rows(answer, f"{metric} floor")
        for key, gap in gaps.items():
            assert found[key].low <= found[key].value <= found[key].high
            assert gap.value == pytest.approx(found[key].value - below[key].value)


def test_without_an_untrained_network_alignment_is_compared_with_other_images(answer: MemoryArtifact) -> None:
    found = rows(answer, "alignment - floor")["raw:backbone", ""]
    assert found.high < 0
    assert found.why == "the flipped views of other images"


def test_equal_tables_are_alike_in_everything_and_permuted_rows_in_nothing(answer: MemoryArtifact) -> None:
    alike, near = rows(answer, "cka"), rows(answer, "mutual neighbours")
    assert alike["again:backbone", "small:backbone"].value == pytest.approx(1)
    assert near["again:backbone", "small:backbone"].value == 1
    assert near["again:backbone", "small:backbone"].verdict == verdicts.MORE
    foreign = rows(answer, "cka floor")["oracle:attributes", "oracle:pixels"]
    assert foreign.why == "rows that do not belong together"
    assert foreign.low < 0.1
    assert abs(foreign.value) < 0.25
    assert rows(answer, "mutual neighbours floor")["oracle:attributes", "oracle:pixels"].value < 0.2


def test_two_taps_of_an_encoder_are_compared_with_those_of_its_network_untrained(answer: MemoryArtifact) -> None:
    floor = rows(answer, "cka floor")["small:backbone", "small:projector"]
    assert floor.value == rows(answer, "cka")["raw:backbone", "raw:projector"].value
    assert floor.why == "raw:backbone and raw:projector, untrained"
    own = rows(answer, "cka")["small:backbone", "small:projector"]
    gap = rows(answer, "cka - floor")["small:backbone", "small:projector"]
    assert gap.value == pytest.approx(own.value - floor.value)
    assert own.verdict == verdicts.of_pair(gap.low, gap.high)


def test_an_imported_network_is_known_by_how_it_is_built_and_not_by_its_name(inputs: dict[str, MemoryArtifact]) -> None:
    def network(name: str, untrained: bool) -> MemoryArtifact:
        card = ImportedCard(
            source={"kind": "timm", "name": name, "untrained": untrained},
            recipe={"kind": "timm", "name": name},
            own_taps=("backbone",),
            named_taps={},
            taps={"backbone": 8},
            preprocessing=PREPROCESSING,
            precision="float32",
            augmentations=None,
            weights_sha256="",
            files={},
            unused=(),
            zeroed=(),
            pieces=1,
        )
        return MemoryArtifact({CARD: card.model_dump_json().encode()})

    networks = {"a": network("vit", False), "b": network("resnet", True), "c": network("vit", True)}
    given = inputs | {f"encoder.{name}": artifact for name, artifact in networks.items()}
    specs: dict[str, EncoderSpec] = {**dict.fromkeys(networks, Pretrained()), "raw": Untrained()}
    assert [untrained_twin(given, name, specs) for name in ("a", "b", "c", "raw")] == ["c", None, None, None]


def test_two_encoders_of_one_network_are_each_compared_with_the_other_untrained(answer: MemoryArtifact) -> None:
    floor = rows(answer, "cka floor")["again:backbone", "small:projector"]
    alike = rows(answer, "cka")
    candidates = [alike["again:backbone", "raw:projector"].value, alike["raw:backbone", "small:projector"].value]
    assert floor.value == max(candidates)


def test_equal_inputs_give_equal_bytes_and_images_are_found_by_key_wherever_they_stand(
    inputs: dict[str, MemoryArtifact], answer: MemoryArtifact
) -> None:
    again = run_stage(STAGE, inputs)
    assert again.objects["results.parquet"] == answer.objects["results.parquet"]
    table = inputs["embeddings.small"]
    records = table_from(table.objects[ROWS])
    keys = records.column("key").to_pylist()
    position = records.column_names.index("key")

    def with_keys(changed: list[str]) -> MemoryArtifact:
        found = records.set_column(position, "key", [changed])
        return MemoryArtifact(table.objects | {ROWS: table_bytes(found)})

    turned = open_table(with_keys(keys[::-1]))
    assert rows_by_key(turned, "small", keys[:3]).tolist() == [len(keys) - 1, len(keys) - 2, len(keys) - 3]
    with pytest.raises(FormatError, match="no row for"):
        run_stage(STAGE, inputs | {"embeddings.small": with_keys([f"other-{key}" for key in keys])})
    with pytest.raises(FormatError, match="1 keys that stand twice"):
        rows_by_key(open_table(with_keys([keys[1], *keys[1:]])), "small", keys[1:3])


def test_a_tap_whose_vectors_are_all_the_same_is_collapsed_and_like_no_other(inputs: dict[str, MemoryArtifact]) -> None:
    raw = Untrained(architecture=ARCHITECTURE)
    shards = inputs["shards"]
    table = run_stage(Embeddings(encoder=raw, views=("plain",)), {"images": shards})
    flat = run_stage(STAGE, {"shards": shards, "embeddings.flat": constant(table)})
    for tap in TAPS:
        assert rows(flat, "constant features")[f"flat:{tap}", ""].value == 1
        assert rows(flat, "effective rank")[f"flat:{tap}", ""].value == 0
        assert "no flipped views" in rows(flat, "alignment")[f"flat:{tap}", ""].why
    assert "like no other" in rows(flat, "cka")["flat:backbone", "flat:projector"].why
    assert "mutual neighbours" not in {row.metric for row in load_rows(flat.objects["results.parquet"])}
    shown = read("health", flat)
    (part,) = section(shown, {}, styles.assign_styles(["flat:backbone", "flat:projector"], {}, {})).parts
    assert "like no other" in part.html
    assert "no flipped views" in part.html


def constant(table: MemoryArtifact) -> MemoryArtifact:
    """The table with one vector for all images."""
    import zarr

    from stages.embeddings.format import STORE, encode_shard, shard_name

    group = zarr.open_group(table.zarr(STORE), mode="r")
    objects = dict(table.objects)
    for tap in open_table(table).taps:
        array = group[f"{tap}/plain"]
        assert isinstance(array, zarr.Array)
        assert array.shards is not None
        for part in range(-(-array.shape[0] // array.shards[0])):
            count = min(array.shards[0], array.shape[0] - part * array.shards[0])
            same = np.tile(np.arange(array.shape[1], dtype=np.float32), (count, 1))
            objects[shard_name(tap, "plain", part)] = encode_shard(same, array.shards[0])
    return MemoryArtifact(objects)


def test_too_few_images_are_refused(inputs: dict[str, MemoryArtifact]) -> None:
    with pytest.raises(InputError, match="101 held-out images or more"):
        run_stage(Health(neighbours=100), inputs)


@pytest.mark.parametrize(
    ("rank", "width", "images", "expected"),
    [
        (1.9, 256, 2000, verdicts.COLLAPSED),
        (25.0, 256, 2000, verdicts.NARROW),
        (26.0, 256, 2000, verdicts.SPREAD_OUT),
        # No more directions are possible than there are images.
        (26.0, 4096, 200, verdicts.SPREAD_OUT),
        (1.0, 256, 99, verdicts.CANNOT_TELL),
    ],
)
def test_the_verdict_on_a_tap(rank: float, width: int, images: int, expected: str) -> None:
    assert verdicts.of_tap(rank, width, images) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.05, 0.2, verdicts.MORE),
        (-0.2, -0.05, verdicts.LESS),
        (-0.04, 0.04, verdicts.NO_DIFFERENCE),
        (0.01, 0.2, verdicts.CANNOT_TELL),
        (-0.2, 0.2, verdicts.CANNOT_TELL),
        (float("nan"), float("nan"), verdicts.CANNOT_TELL),
    ],
)
def test_the_verdict_on_a_pair(low: float, high: float, expected: str) -> None:
    assert verdicts.of_pair(low, high) == expected


def test_the_section_has_a_line_for_each_tap_and_two_maps(answer: MemoryArtifact) -> None:
    shown = read("health", answer)
    tap_ids = ["small:backbone", "small:projector", "raw:backbone", "oracle:pixels"]
    found = section(shown, {}, styles.assign_styles(tap_ids, {"small"}, {}))
    (part,) = found.parts
    for text in ("80 held-out images", "RankMe", "Linear CKA", "Mutual nearest neighbours", "raw:backbone, untrained"):
        assert text in part.html
    assert part.html.count("color-mix") == 2 * 4 * 4
    assert any(line.startswith("effective rank  small:backbone") for line in found.headlines)


def test_a_study_that_asks_it_has_one_step_more_that_reads_no_decoder() -> None:
    study = load(str(MICRO))
    before = {step.name: step for step in graph_of(study)}
    questions = study.questions.model_copy(update={"health": Health()})
    after = {step.name: step for step in graph_of(study.model_copy(update={"questions": questions}))}
    assert after.keys() - before.keys() == {"health"}
    assert {name for name in before if after[name] != before[name]} == {"report"}
    assert after["health"].inputs == {
        "shards": "shards",
        "embeddings.simclr": "embeddings.simclr",
        "embeddings.oracle": "embeddings.oracle",
        "encoder.simclr": "encoder.simclr",
    }


def test_the_estimate_grows_with_images_features_and_tables() -> None:
    def seconds(stage: Health, tables: int, features: int) -> float:
        table = Estimate(rows=100, size_bytes=100 * 8 * features, cpu_seconds=0)
        return stage.estimate({f"embeddings.{number}": table for number in range(tables)}).cpu_seconds

    assert seconds(Health(), 1, 4096) > 1.5 * seconds(Health(), 1, 512)
    assert seconds(Health(count=4000), 1, 512) > 1.5 * seconds(Health(), 1, 512)
    assert seconds(Health(), 4, 512) > 1.5 * seconds(Health(), 1, 512)
