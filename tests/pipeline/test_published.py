"""A study on a published RCDM: only readers and probes are trained, and whatever reads a decoder reads this one."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import UsageError
from pipeline.graph import graph_of, samples_of
from pipeline.study import Study, load
from stages.decoder.rcdm.published_stage import ReleasedDecoder
from stages.decoder.rcdm.stage import Rcdm
from tests.finished import MICRO, STUDIES, repscope
from tests.stages.decoder.rcdm.reference import reference


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    torch.save(reference("A").weights(), folder / "rcdm.pt")
    sha256 = hashlib.sha256((folder / "rcdm.pt").read_bytes()).hexdigest()
    text = (STUDIES / "published.yaml").read_text()
    path = folder / "published.yaml"
    path.write_text(text.replace("FILE", f"file://{folder / 'rcdm.pt'}").replace("SHA256", sha256))
    return path


@pytest.fixture(scope="module")
def read(study: Path) -> Study:
    return load(str(study))


def changed(study: Path, tmp_path: Path, before: str, after: str) -> Path:
    text = study.read_text()
    assert before in text
    path = tmp_path / "changed.yaml"
    path.write_text(text.replace(before, after))
    return path


def test_its_decoder_reads_nothing_of_the_study_and_has_no_half_of_a_training(read: Study) -> None:
    steps = {step.name: step for step in graph_of(read)}
    assert isinstance(steps["decoder"].stage, ReleasedDecoder)
    assert steps["decoder"].inputs == {}
    assert "samples.halfway" not in steps
    assert "halfway_samples" not in steps["kept"].inputs


def test_it_samples_on_the_noise_levels_of_its_schedule_unless_a_study_names_others(
    read: Study, study: Path, tmp_path: Path
) -> None:
    sampling = samples_of(read)
    assert (sampling.sigma_min, sampling.sigma_max) == (0.02, 157.0)
    assert sampling.steps == 2
    other = load(str(changed(study, tmp_path, "samples: {", "samples: {sampler: ddim, sigma_max: 80, ")))
    assert (samples_of(other).sampler, samples_of(other).sigma_max) == ("ddim", 80.0)
    assert samples_of(load(str(MICRO))) == load(str(MICRO)).samples


def test_it_samples_as_its_authors_did_where_a_study_says_so_and_no_other_decoder_can(
    study: Path, tmp_path: Path
) -> None:
    def with_levels(levels: str, path: Path = study) -> Study:
        return load(str(changed(path, tmp_path, "samples: {", "samples: {sampler: published, " + levels)))

    assert samples_of(with_levels("")).sampler == "published"
    with pytest.raises(UsageError, match=r"schedule; found samples\.sigma_max, samples\.sigma_min"):
        samples_of(with_levels("sigma_min: 0.1, sigma_max: 80, "))
    few = changed(study, tmp_path, "  network:", "  steps: 2\n  network:")
    assert samples_of(with_levels("", few)).steps == 2
    few.write_text(few.read_text().replace("steps: 2,", "steps: 3,"))
    with pytest.raises(UsageError, match=r"samples\.steps of 2 at most, .* found 3"):
        samples_of(load(str(few)))
    with pytest.raises(UsageError, match=r"kind: released or architecture: adm; found .* no.* learned variance"):
        graph_of(with_levels("", MICRO))


def test_the_published_training_is_a_decoder_that_is_trained_and_samples_like_a_published_one(tmp_path: Path) -> None:
    start, end = MICRO.read_text().split("decoder:", 1)[0], MICRO.read_text().split("sources:", 1)[1]
    path = tmp_path / "adm.yaml"
    path.write_text(
        f"{start}decoder: {{architecture: adm, taps: ['simclr:backbone'], num_images: 64}}\n\nsources:{end}"
    )
    found = load(str(path))
    steps = {step.name: step for step in graph_of(found)}
    assert steps["decoder"].stage == Rcdm(taps=("simclr:backbone",), num_images=64)
    assert {"shards", "embeddings.simclr"} <= set(steps["decoder"].inputs)
    assert "samples.halfway" in steps
    assert (samples_of(found).sigma_max, samples_of(found).steps) == (157.0, 4)
    path.write_text(path.read_text().replace("num_images: 64", "num_image: 64"))
    assert "unknown field 'decoder.num_image'" in repscope("plan", path, code=2).stderr


def test_a_study_on_it_runs_to_the_page_and_shows_an_image_of_the_users(study: Path, tmp_path: Path) -> None:
    words = ("--store", tmp_path / "store")
    run = json.loads(repscope("run", study, *words, "--executor", "inline", "--json").stdout)
    assert {"decoder", "kept", "faithfulness", "report"} <= set(run["made"])
    page = Path(run["report"].removeprefix("file://")).read_text()
    assert "published" in page
    image = tmp_path / "image.png"
    shown = ("show", study, image, *words, "--samples", "2", "--out", tmp_path / "shown.png")
    from stages.datasets.scenes import render
    from stages.images.pixels import encode_png

    image.write_bytes(encode_png(render(1, range(1))[0][0]))
    output = repscope(*shown).stdout
    assert "net:backbone" in output
    assert "the image and 2 samples each at 1 tap" in output
    first = (tmp_path / "shown.png").read_bytes()
    as_its_authors = changed(study, tmp_path, "samples: {", "samples: {sampler: published, ")
    assert "2 samples each" in repscope("show", as_its_authors, *shown[2:]).stdout
    assert (tmp_path / "shown.png").read_bytes() != first


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("kind: released", "kind: publshed"),
            "decoder: expected kind: released, architecture: adm, or neither",
        ),
        (("kind: released", "kind: released\n  num_images: 3"), "field 'decoder.num_images'. docs"),
        (("  preprocessing: unchecked\n", ""), "expected preprocessing: rcdm at encoders.net, as published decoders"),
        (("schedule", "schedul"), "did you mean 'schedule'?"),
        (('["net:backbone"]', '["net:backbone", "net:projector"]'), "mistake: decoder.taps"),
        (("net:backbone", "net:backbon"), "did you mean 'backbone'?"),
        (("channel_mult: [1, 2, 2]", "channel_mult: [1, 2, 2, 2, 2, 2, 2]"), "multiple of 64"),
        (("sha256: ", "sha256: x"), "mistake: decoder.sha256"),
    ],
)
def test_a_wrong_field_of_it_is_named(change: tuple[str, str], expected: str, study: Path, tmp_path: Path) -> None:
    path = changed(study, tmp_path, "  network:", "  schedule: linear\n  network:")
    message = repscope("plan", changed(path, tmp_path, *change), "--store", tmp_path / "store", code=2).stderr
    assert expected in message
    assert "Traceback" not in message


def test_fields_of_a_decoder_that_is_trained_are_named_without_a_kind(tmp_path: Path) -> None:
    path = changed(MICRO, tmp_path, "  checkpoint_images: 512", "  checkpoint_image: 512")
    message = repscope("plan", path, "--store", tmp_path / "store", code=2).stderr
    assert "unknown field 'decoder.checkpoint_image' (did you mean 'checkpoint_images'?)" in message
