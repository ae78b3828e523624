"""The answer to dynamics: kept, a linear probe and r at each checkpoint, their trends, and since when they differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stages.contract import Inputs, Output, Summary
from stages.encoders.format import CARD, IMAGES_SEEN, read_card
from stages.encoders.spec import require
from stages.questions import series, trend
from stages.questions.asks.stage import ENCODER
from stages.questions.dynamics.rules import RULE, lasting
from stages.questions.format import Row, note, put_rows, row, split_tap
from stages.questions.painted import painting
from stages.questions.series import TREND, Measured, Series
from stages.readers import score
from stages.readers.score import Interval

if TYPE_CHECKING:
    from stages.questions.dynamics.stage import Dynamics

QUESTION = "dynamics"
KEPT, PROBE, R = (f"{metric} by position" for metric in (series.KEPT, series.PROBE, series.R))
CHANGE, SINCE = " - first", " changed from"
"""After these: the change since the first checkpoint, and from which position on there is one."""
POSITION = "position"
"""Rows on where in the training an encoder stands. Their subject is the last encoder of the training."""
FIRST = "first checkpoint"
SEEN, GIVEN = "images seen", "position in the study"
"""Units of positions."""


@dataclass(frozen=True)
class Run:
    """A training: its checkpoints from the first to the last, with their positions."""

    positions: Mapping[str, float]
    """By encoder, rising."""

    @property
    def name(self) -> str:
        """The last encoder, by which the training is called."""
        return list(self.positions)[-1]

    def series(self, tap_ids: Sequence[str]) -> tuple[list[Series], list[str]]:
        """The taps that three checkpoints or more were asked about at, and sentences on the others."""
        found, left_out = [], []
        own = [split_tap(tap_id) for tap_id in tap_ids]
        for tap in dict.fromkeys(tap for encoder, tap in own if encoder in self.positions):
            with_it = [encoder for encoder in self.positions if (encoder, tap) in own]
            if len(with_it) < trend.POINTS_MIN:
                needed = f"{len(with_it)} of the {trend.POINTS_MIN} checkpoints that a trend needs"
                left_out.append(f"{self.name}: {needed} have the tap {tap}.")
                continue
            names = tuple(f"{self.positions[encoder]:g}" for encoder in with_it)
            ids = tuple(f"{encoder}:{tap}" for encoder in with_it)
            found.append(Series(QUESTION, "position", "checkpoint", ids[-1], ids, names))
        return found, left_out


def answer(stage: "Dynamics", inputs: Inputs, out: Output, device: str) -> Summary:
    """Rows of every training; the summary holds the verdicts. Samples are read on `device`.

    Raises InputError where the study names an encoder that was not asked about.
    """
    found = painting(inputs)
    runs, unit = runs_of(stage, inputs, found.tap_ids), GIVEN if stage.runs else SEEN
    rows = [note(QUESTION, "rules", ":", rule) for rule in (trend.RULE, RULE)]
    if not runs:
        why = "No encoder under study keeps checkpoints. Name them under `runs`, or write `checkpoints` at one."
        rows.append(note(QUESTION, "left out", ":", why))
    courses: list[tuple[Run, Series]] = []
    for run in runs:
        asked = [tap_id for tap_id in found.tap_ids if split_tap(tap_id)[0] in run.positions]
        own, left_out = run.series(found.tap_ids)
        rows += [note(QUESTION, "left out", f"{run.name}:", why, str(i)) for i, why in enumerate(left_out)]
        courses += [(run, each) for each in own]
        for tap_id in asked:
            alone = Interval(run.positions[split_tap(tap_id)[0]], float("nan"), float("nan"), len(found.rows))
            rows.append(row(QUESTION, POSITION, tap_id, run.name, alone, unit))
        first = next(iter(run.positions))
        if own and run.positions[first] > 0:
            why = f"There is no untrained network at position 0, so {run.name} is compared with {first}."
            rows.append(note(QUESTION, FIRST, f"{run.name}:", why))
    wanted = list(dict.fromkeys(tap_id for _, course in courses for tap_id in course.tap_ids))
    every = [
        series.kept(inputs, found, wanted, stage.seed, device),
        series.probed(inputs, found, wanted, stage.train, stage.seed),
    ]
    moved = series.moved(inputs, wanted)
    every += [] if moved is None else [moved]
    for run, course in courses:
        for measured in every:
            rows += course.rows(measured, stage.seed)
            rows += _changes(stage.seed, run, course, measured, unit)
        if moved is not None and series.OTHERS not in moved.subjects(course.tap_ids):
            why = "r was not asked at every checkpoint."
            rows.append(note(QUESTION, R, course.at, why))
    # An untrained network may be the first of several trainings.
    rows = put_rows(out, list({(r.metric, r.encoder, r.tap, r.subject): r for r in rows}.values()))
    return {
        "sources": len(found.rows),
        "runs": {run.name: dict(run.positions) for run in runs},
        "verdicts": {f"{r.encoder}:{r.tap} {r.subject}": r.verdict for r in rows if r.metric == KEPT + TREND},
    }


def runs_of(stage: "Dynamics", inputs: Inputs, tap_ids: Sequence[str]) -> list[Run]:
    """The trainings that the study names; otherwise those of which checkpoints were asked about.

    Raises InputError where an encoder was not asked about.
    """
    encoders = dict.fromkeys(split_tap(tap_id)[0] for tap_id in tap_ids)
    for run in stage.runs:
        for encoder in run:
            require("encoder under `runs`, among those of the decoder's taps", encoder, encoders)
    if stage.runs:
        return [Run(dict(sorted(run.items(), key=lambda entry: entry[1]))) for run in stage.runs]
    trainings: dict[str, dict[str, float]] = {}
    lengths: dict[str, float] = {}
    for encoder in encoders:
        artifact = inputs.get(ENCODER + encoder)
        if artifact is None or CARD not in artifact.names():
            continue
        settings = read_card(artifact).training
        if IMAGES_SEEN in settings:
            trainings.setdefault(encoder.rpartition("@")[0], {})[encoder] = float(settings[IMAGES_SEEN])
        elif "num_images" in settings:
            lengths[encoder] = float(settings["num_images"])
    found = []
    for training, positions in trainings.items():
        whole = {training: lengths[training]} if training in lengths else {}
        found.append(Run(dict(sorted(positions.items(), key=lambda entry: entry[1])) | whole))
    return found


def _changes(seed: int, run: Run, course: Series, measured: Measured, unit: str) -> Iterator[Row]:
    """Of every subject the change at each checkpoint since the first, paired, and from which position on it lasts."""
    metric = course.metric(measured)
    later = course.tap_ids[1:]
    for subject in measured.subjects(course.tap_ids):
        estimates = measured.of(subject, course.tap_ids)
        changes = series.changed(estimates, measured.count, seed)
        for tap_id, change in zip(later, changes, strict=True):
            yield row(QUESTION, metric + CHANGE, tap_id, subject, change, measured.unit)
        index, why = lasting(changes), ""
        if not measured.reader(subject) >= trend.READER_MIN:
            index, why = None, f"its reader scores {measured.reader(subject):.2f}"
        elif not measured.largest([score.interval(e, measured.count, seed) for e in estimates]) >= trend.EFFECT_MIN:
            index, why = None, f"at no checkpoint it is {trend.EFFECT_MIN:g} or more"
        at = float("nan") if index is None else run.positions[split_tap(later[index])[0]]
        alone = Interval(at, float("nan"), float("nan"), measured.count)
        yield replace(row(QUESTION, metric + SINCE, course.at, subject, alone, unit), why=why)
