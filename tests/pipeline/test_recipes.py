"""The recipes are studies that can be planned."""

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.errors import UsageError
from pipeline.graph import graph_of, samples_of
from pipeline.plan import plan
from pipeline.store import open_store
from pipeline.study import RECIPES, Study, load, recipes
from stages.decoder.stage import Decoder
from stages.pretrain.stage import Checkpoint, Pretrain
from stages.questions.doses import doses
from stages.questions.findings import SEEDS_MIN
from stages.readers.stage import Probes
from tests.finished import STUDIES


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_becomes_a_graph_with_sizes_that_fit(name: str) -> None:
    study = load(name)
    assert study.study == name
    assert graph_of(study)[-1].name == "report"
    decoder = study.decoder
    assert isinstance(decoder, Decoder)
    assert decoder.size % decoder.network.multiple == 0
    assert decoder.estimate({}).cpu_seconds > 0


def test_the_help_of_init_names_every_recipe() -> None:
    text = CliRunner().invoke(main, ["init", "--help"]).output
    assert set(recipes()) <= set(re.findall(r"\w+", text))


def referring(tmp_path: Path, tap: str) -> Study:
    """The study `tiny` whose kept is read by another encoder too."""
    document = yaml.safe_load((RECIPES / "tiny.yaml").read_text())
    document["encoders"]["other"] = {"kind": "untrained"}
    document["questions"] = {"kept": {"references": [tap]}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(document))
    return load(str(path))


def test_a_reference_encoder_reads_images_for_probes_and_kept_and_is_not_under_study(tmp_path: Path) -> None:
    steps = {step.name: step for step in graph_of(referring(tmp_path, "other:backbone"))}
    assert steps["kept"].inputs["reference.other"] == steps["probes"].inputs["reference.other"] == "reference.other"
    assert "embeddings.other" not in steps["decoder"].inputs
    assert "embeddings.other" not in steps
    probes = steps["probes"].stage
    assert isinstance(probes, Probes)
    assert probes.references == ("other:backbone",)


@pytest.mark.parametrize("tap", ["other:nowhere", "another:backbone", "oracle:attributes"])
def test_a_reference_that_cannot_read_images_or_is_under_study_is_refused(tmp_path: Path, tap: str) -> None:
    with pytest.raises(UsageError, match="expected references"):
        referring(tmp_path, tap)


def keeping(tmp_path: Path, taps: list[str], **encoders: object) -> Study:
    """The study `micro` whose training keeps two checkpoints, with these taps."""
    document = yaml.safe_load((STUDIES / "micro.yaml").read_text())
    document["encoders"]["simclr"]["checkpoints"] = [0, 0.25]
    document["encoders"] |= encoders
    document["decoder"]["taps"] = taps
    document["questions"] = {"invariance": {}, "layers": {}, "dynamics": {}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(document))
    return load(str(path))


def test_a_checkpoint_is_an_encoder_of_its_own_whose_step_reads_the_training(tmp_path: Path) -> None:
    steps = {step.name: step for step in graph_of(keeping(tmp_path, ["simclr@0:backbone", "simclr@0.25:backbone"]))}
    for name, at in (("simclr@0", 0.0), ("simclr@0.25", 0.25)):
        assert steps[f"encoder.{name}"].stage == Checkpoint(at=at)
        assert steps[f"encoder.{name}"].inputs == {"training": "encoder.simclr"}
        assert steps[f"embeddings.{name}"].inputs["encoder"] == f"encoder.{name}"
        assert steps["dynamics"].inputs[f"encoder.{name}"] == f"encoder.{name}"
    # No tap is that of the training's end.
    assert "embeddings.simclr" not in steps
    with pytest.raises(UsageError, match=r"simclr@0, simclr@0\.25; found 'simclr@0\.5:backbone'"):
        keeping(tmp_path, ["simclr@0.5:backbone"])
    with pytest.raises(UsageError, match="named as the checkpoint of another; found 'simclr@0'"):
        keeping(tmp_path, ["simclr:backbone"], **{"simclr@0": {"kind": "oracle"}})


def test_a_question_reads_what_another_has_asked_where_the_study_asks_that_too(tmp_path: Path) -> None:
    study = keeping(tmp_path, ["simclr:backbone"])
    steps = {step.name: step for step in graph_of(study)}
    for name in ("layers", "dynamics"):
        assert steps[name].inputs["asked.invariance"] == "ask.invariance" == steps["invariance"].inputs["conditions"]
    alone = study.model_copy(update={"questions": study.questions.model_copy(update={"invariance": None})})
    assert {step.name for step in graph_of(alone)} & {"invariance", "ask.invariance"} == set()


def seeded(tmp_path: Path, seeds: list[int]) -> Study:
    """The study `tiny` with further seeds of its decoder."""
    path = tmp_path / "study.yaml"
    path.write_text((RECIPES / "tiny.yaml").read_text() + f"\ndecoder_seeds: {seeds}\n")
    return load(str(path))


def test_further_seeds_of_the_decoder_are_trained_and_painted_from_for_kept(tmp_path: Path) -> None:
    steps = {step.name: step for step in graph_of(seeded(tmp_path, [5, 6]))}
    for number, seed in enumerate((5, 6), 1):
        painted = steps[steps["kept"].inputs[f"seed_samples.{number}"]]
        assert steps[painted.inputs["decoder"]].stage == steps["decoder"].stage.model_copy(update={"seed": seed})
        assert painted.inputs["conditions"] == steps["samples.sources"].inputs["conditions"]
    for step in graph_of(load("tiny")):
        assert step.name in ("kept", "report") or steps[step.name] == step
    with pytest.raises(UsageError, match="differ from each other"):
        seeded(tmp_path, [0])


def test_the_recipe_of_doses_has_encoders_that_differ_in_one_strength_alone() -> None:
    encoders = {name: encoder for name, encoder in load("dose").encoders.items() if isinstance(encoder, Pretrain)}
    trained = {
        name: {
            "augmentations": encoder.augmentations.model_dump(mode="json"),
            "others": encoder.model_dump(mode="json", exclude={"augmentations", "seed"}),
        }
        for name, encoder in encoders.items()
    }
    assert [(dose.augmentation, dose.strengths) for dose in doses(trained)] == [
        ("crop floor", (0.08, 0.2, 0.5, 1.0)),
        ("hue", (0.0, 0.1, 0.25, 0.5)),
    ]


def test_the_recipes_for_a_gpu_are_of_64_and_128_pixels() -> None:
    found = {name: load(name).decoder for name in ("scenes64", "folder128")}
    assert {name: decoder.size for name, decoder in found.items() if isinstance(decoder, Decoder)} == {
        "scenes64": 64,
        "folder128": 128,
    }


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_samples_from_noise_that_hides_as_much_at_any_size(name: str) -> None:
    study = load(name)
    assert isinstance(study.decoder, Decoder)
    assert samples_of(study).sigma_max == 20.0 * study.decoder.size / 32


def test_the_estimate_of_the_default_decoder_is_the_measured_one_and_grows_with_the_network() -> None:
    default = Decoder(taps=("a:b",))
    assert default.estimate({}).cpu_seconds == pytest.approx(10 + 105_000 * 3.9e-3 + 60_000 * 1.2e-4)
    wider = default.model_copy(update={"network": default.network.model_copy(update={"channels": (128, 256, 512)})})
    assert wider.estimate({}).cpu_seconds > 3 * default.estimate({}).cpu_seconds


def test_the_recipe_of_the_findings_trains_every_method_alike_from_enough_seeds_of_their_own() -> None:
    trained = [encoder for encoder in load("findings").encoders.values() if isinstance(encoder, Pretrain)]
    seeds: dict[tuple[str, str | None], set[int]] = {}
    for encoder in trained:
        seeds.setdefault((encoder.method, encoder.label), set()).add(encoder.seed)
    assert seeds.keys() == {("simclr", None), ("vicreg", None), ("supervised", "shape"), ("supervised", "pattern")}
    assert all(len(found) == SEEDS_MIN for found in seeds.values())
    assert len(set[int]().union(*seeds.values())) == len(trained)
    assert len({encoder.model_copy(update={"method": "", "label": None, "seed": 0}) for encoder in trained}) == 1


def test_the_recipe_of_the_findings_is_planned_within_its_hundred_minutes_of_two_cores(tmp_path: Path) -> None:
    states = plan(graph_of(load("findings")), open_store(str(tmp_path / "store")))
    assert {"invariance", "kept", "robustness", "edits"} <= {state.name for state in states}
    assert sum(state.seconds for state in states) < 2 * 100 * 60
