"""Files of format 1, written once and never again, stay readable: what painting and answering leave behind."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.decoder import format as decoder_format
from stages.errors import FormatError
from stages.images.sets import open_images
from stages.questions.format import load_rows, read_conditions
from stages.readers import format as readers_format
from tests.artifacts import FolderArtifact, MemoryArtifact

OLD = Path(__file__).parent.parent / "data" / "formats" / "v1"


def test_a_decoder_of_format_1_still_paints() -> None:
    decoder = decoder_format.load(FolderArtifact(OLD / "decoder"), "cpu")
    assert list(decoder.taps) == ["simclr:backbone", "simclr:projector", "oracle:attributes"]
    width = decoder.taps["simclr:backbone"]
    noisy, sigma = torch.zeros(2, 3, 32, 32), torch.full((2,), 0.5)
    painted = decoder.denoiser("simclr:backbone")(noisy, sigma, torch.zeros(2, width))
    assert painted.shape == (2, 3, 32, 32)
    assert torch.isfinite(painted).all()
    card = decoder.card
    assert isinstance(card, decoder_format.DecoderCard)
    assert card.training.optimiser == "adamw", "there was no other"


def test_a_newer_decoder_is_refused_with_what_to_do() -> None:
    newer = MemoryArtifact()
    newer.put("decoder.json", (OLD / "decoder" / "decoder.json").read_bytes().replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(FormatError, match="version of Repscope that wrote it"):
        decoder_format.read_card(newer)


def test_conditions_and_samples_of_format_1_are_read_side_by_side() -> None:
    conditions = read_conditions(FolderArtifact(OLD / "conditions"))
    assert [c.tap_id for c in conditions[::2]] == ["simclr:backbone", "simclr:projector", "oracle:attributes"]
    samples = open_images(FolderArtifact(OLD / "samples"))
    assert samples.count == 2 * len(conditions)
    images = [samples.decode_part(part, 32)[1] for part in range(samples.parts)]
    assert np.concatenate(images).shape == (samples.count, 32, 32, 3)


def test_results_of_format_1_have_their_columns() -> None:
    rows = load_rows((OLD / "results" / "results.parquet").read_bytes())
    assert {"kept", "probe", "kept difference"} <= {row.metric for row in rows}
    assert all(row.low <= row.value <= row.high for row in rows if row.metric == "kept" and row.n > 1)


def test_readers_of_format_1_still_read() -> None:
    reader = readers_format.load(FolderArtifact(OLD / "readers"), "cpu")
    values = reader.read(np.full((2, 32, 32, 3), 128, dtype=np.uint8))
    assert values["shape"].shape == (2,)
    assert values["mean_brightness"][0] == pytest.approx(values["mean_brightness"][1])
