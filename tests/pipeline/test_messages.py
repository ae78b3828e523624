"""What a newcomer reads when something is wrong: one line, with what was expected, what was found and what to do."""

from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from cluster.inline import Inline
from pipeline.errors import RootError, UsageError
from pipeline.fingerprint import list_files
from pipeline.graph import graph_of
from pipeline.plan import plan
from pipeline.run import run
from pipeline.store import open_store
from pipeline.study import RECIPES, Study, load
from stages.datasets.parquet import ParquetSource
from stages.decoder.stage import Decoder
from stages.errors import InputError
from tests.faults.arithmetic import graph
from tests.finished import MICRO, STUDIES


def refused(study: Path) -> str:
    """The message of a study that cannot be used, in one line."""
    with pytest.raises(UsageError) as caught:
        load(str(study))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("batch: 64", "batch: lots"), "unable to parse string as an integer, not 'lots'"),
        (("sources: {count: 16}", "sources: {count: -3}"), "should be greater than 0, not -3"),
        (
            ('"simclr:projector"', '"simclr:projektor"'),
            "found a mistake: expected one of the taps of simclr: backbone, projector.0, projector; "
            "found 'simclr:projektor' (did you mean 'projector'?)",
        ),
        (('"simclr:projector"', '"simclar:projector"'), "found 'simclar:projector' (did you mean 'simclr'?)"),
        (("batch: 64", "batch: lots, num_imges: 4"), "found 2 mistakes: "),
        (("oracle: {kind: oracle}", "trained: {kind: oracle, seed: 1}"), "unknown field 'encoders.trained.seed'"),
        (
            ("oracle: {kind: oracle}", "or cle: {kind: oracle}"),
            "encoders of letters, digits and `_.=+@,-`; found",
        ),
        (("study: micro", "study: [micro"), "at line 3, column 6: "),
        (("study: micro", "study: !!python/object:os.system x"), "column 8: could not determine a constructor for"),
    ],
)
def test_a_mistake_in_a_study_is_reported_where_it_is(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    text = MICRO.read_text()
    assert change[0] in text
    study = tmp_path / "study.yaml"
    study.write_text(text.replace(*change))
    assert expected in refused(study)


@pytest.mark.parametrize(("levels", "expected"), [("sigma_min: 30", "30 and 20"), ("sigma_max: 0.1", "0.1 and 0.1")])
def test_noise_levels_that_do_not_fall_are_refused_before_anything_runs(
    tmp_path: Path, levels: str, expected: str
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(MICRO.read_text().replace("steps: 4", f"steps: 4, {levels}"))
    with pytest.raises(UsageError, match=rf"sigma_min below samples\.sigma_max; found {expected}\. Lower"):
        graph_of(load(str(study)))
    # Without a sketch painting starts from level 80 unless a study says otherwise.
    study.write_text(study.read_text().replace("sketch_images: 4096", "sketch_images: 0"))
    if "sigma_max" not in levels:
        assert graph_of(load(str(study)))


def test_a_key_that_is_written_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    text = MICRO.read_text().replace("{sketch_images: 4096}", "{sketch_images: 4096, sketch_images: 8}")
    study.write_text(text)
    line = text[: text.index("sketch_images: 8")].count("\n") + 1
    with pytest.raises(UsageError, match=rf"at line {line}, column \d+: 'sketch_images' is written twice"):
        load(str(study))


def test_a_key_is_the_text_that_is_written(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    columns = "{1: class, 2.50: scalar, null: class, on: class, Yes: class, 2026-01-02: scalar, ~: class}"
    source = "{kind: parquet, url: ./rows, columns: " + columns + "}"
    text = MICRO.read_text().replace("{kind: scenes, count: 768, seed: 5}", source)
    study.write_text(text.replace("{sketch_images: 4096}", "{sketch_images: 4096, null: 0}"))
    found = load(str(study))
    assert isinstance(found.decoder, Decoder)
    assert found.decoder.training.null == 0.0
    assert isinstance(found.dataset.listing.source, ParquetSource)
    assert list(found.dataset.listing.source.columns or ()) == ["1", "2.50", "null", "on", "Yes", "2026-01-02", "~"]


@pytest.mark.parametrize("path", sorted([*RECIPES.glob("*.yaml"), *STUDIES.glob("*.yaml")]), ids=lambda path: path.stem)
def test_studies_are_read_as_plain_yaml_reads_them(path: Path, tmp_path: Path) -> None:
    # A published file is named by its path; here any path will do.
    text = path.read_text().replace("SHA256", "ab" * 32)
    (tmp_path / "study.yaml").write_text(text)
    assert load(str(tmp_path / "study.yaml")) == Study.model_validate(yaml.safe_load(text))


def test_keys_that_are_merged_in_are_text_too(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(MICRO.read_text().replace("{sketch_images: 4096}", "{<<: {null: 0.25}, sketch_images: 4096}"))
    decoder = load(str(study)).decoder
    assert isinstance(decoder, Decoder)
    assert (decoder.training.null, decoder.training.sketch_images) == (0.25, 4096)


def test_a_file_that_is_no_study_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("")
    assert "to hold fields; found nothing. Begin with `study: <name>`." in refused(study)
    study.write_bytes(b"\x7fELF\xd0")
    assert "to be plain YAML without tags; found 'utf-8' codec" in refused(study)

    def closed(path: Path, **options: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", closed)
    assert f"expected to read {study}; found Permission denied. Give yourself the right to." in refused(study)


def test_a_source_that_its_file_system_refuses_with_an_error_of_its_own_is_named_by_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NoCredentialsError(Exception):
        """As the library of a cloud has it: no OSError."""

    def refuse(url: str, **options: Any) -> Any:
        raise NoCredentialsError("Unable to locate\ncredentials")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    for only in ((), ("a.parquet",)):
        with pytest.raises(
            InputError, match=r"s3://bucket/photos; found Unable to locate credentials\. Check .* credent"
        ):
            list(list_files("s3://bucket/photos", only))


def test_a_store_of_a_newer_layout_is_refused_by_whoever_only_looks_as_well(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"format": 9}')
    store = open_store(str(tmp_path))
    with pytest.raises(RootError, match=r"found format 9\. Update repscope or name another store\."):
        plan(graph(), store)
    with pytest.raises(RootError, match="found format 9"):
        run(graph(), store, Inline)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_a_root_that_cannot_be_made_is_named_itself() -> None:
    with pytest.raises(RootError, match="expected a folder at /proc/nobody; found No such file or directory"):
        open_store("/proc/nobody").prepare()
