"""What questions store is what they meant."""

import math

import numpy as np
import pytest

from stages.errors import FormatError
from stages.images import image_file
from stages.questions import format
from stages.readers.score import Interval
from stages.samples.format import read_conditions as read_table
from stages.samples.format import read_vectors
from tests.artifacts import MemoryArtifact

CONDITIONS = [format.Condition("a", "x", 7, "plain", 0.0), format.Condition("a", "y", 7, "plain", 0.0)]


def test_conditions_come_back_and_samples_find_their_vectors() -> None:
    out = MemoryArtifact()
    vectors = {"a:y": np.full((1, 3), 2.0, dtype=np.float32), "a:x": np.full((1, 2), 1.0, dtype=np.float32)}
    format.put_conditions(out, CONDITIONS, vectors, "0" * 8)
    assert format.read_conditions(out) == CONDITIONS
    table = read_table(out)
    assert table.column("key").to_pylist() == ["condition-00000000-000000000", "condition-00000000-000000001"]
    assert table.column("source_key").to_pylist() == ["000000007"] * 2
    assert [v.tolist() for v in read_vectors(out, read_table(out))] == [[1.0, 1.0], [2.0, 2.0, 2.0]]


def test_vectors_of_another_shape_are_not_adopted() -> None:
    out = MemoryArtifact(bitwise=False)
    format.put_conditions(
        out, CONDITIONS, {"a:x": np.ones((1, 2), np.float32), "a:y": np.ones((1, 3), np.float32)}, "0" * 8
    )
    again = {"a:x": np.zeros((1, 2), np.float32), "a:y": np.zeros((1, 3), np.float32)}
    format.put_conditions(out, CONDITIONS, again, "0" * 8)
    with pytest.raises(FormatError, match="--force for the ask"):
        format.put_conditions(out, CONDITIONS, again | {"a:y": np.zeros((1, 4), np.float32)}, "0" * 8)


def test_rows_come_back_with_undefined_numbers_as_such() -> None:
    rows = [
        format.row("kept", "kept", "a:x", "hue", Interval(0.5, 0.4, 0.6, 9), "unit"),
        format.note("kept", "rules", "", "because"),
    ]
    first, second = format.load_rows(format.dump_rows(rows))
    assert first == rows[0]
    assert (first.encoder, first.tap, first.verdict) == ("a", "x", "")
    assert math.isnan(second.value)
    assert (second.encoder, second.tap, second.why, second.n) == ("", "", "because", 0)


def test_rows_of_an_earlier_attempt_are_returned_and_other_rows_refused() -> None:
    out = MemoryArtifact(bitwise=False)
    first = format.row("kept", "kept", "a:x", "hue", Interval(0.5, 0.4, 0.6, 9), "unit")
    again = format.row("kept", "kept", "a:x", "hue", Interval(0.5000001, 0.4, 0.6, 9), "unit")
    assert format.put_rows(out, [first]) == [first]
    assert format.put_rows(out, [again]) == [first]
    with pytest.raises(FormatError, match="1 rows"):
        format.put_rows(out, [format.row("kept", "kept", "a:x", "x", Interval(0.5, 0.4, 0.6, 9), "unit")])


def test_a_figure_is_its_tiles_side_by_side() -> None:
    tiles = np.random.Generator(np.random.Philox(1)).integers(0, 256, (2, 3, 4, 4, 3), dtype=np.uint8)
    out = MemoryArtifact()
    format.Figure("f", "grid", "T", "C", tiles, ("r0", "r1"), ("c0", "c1", "c2"), 1, {"seed": 2}, "a", "x").put(out)
    image = image_file.decode(out.objects["figures/f.png"])
    np.testing.assert_array_equal(image[4:8, 8:12], tiles[1, 2])
    assert b'"tile_px": 4' in out.objects["figures/f.json"]


def test_single_ranks_come_back_as_they_were_put() -> None:
    sources = np.array([7, 3], dtype=np.int64)
    samples = format.Ranks("a:x.0", "samples", 9, sources, np.array([[1.0, 2.5, 9.0], [3.0, 1.0, 1.0]]))
    crop = format.Ranks("a:x.0", "crop", 9, sources, np.array([[1.0], [2.0]]))
    out = MemoryArtifact()
    format.put_ranks(out, [samples, crop])
    for found, given in zip(format.load_ranks(out.objects["ranks.parquet"]), (samples, crop), strict=True):
        assert (found.tap_id, found.subject, found.gallery) == (given.tap_id, given.subject, given.gallery)
        np.testing.assert_array_equal(found.sources, given.sources)
        np.testing.assert_array_equal(found.ranks, given.ranks)
    format.put_ranks(out := MemoryArtifact(), [])
    assert format.load_ranks(out.objects["ranks.parquet"]) == []
