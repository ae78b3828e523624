"""The answer to layers: kept, a linear probe and r at each tap, and their trends over depth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.contract import Inputs, Output, Summary
from stages.embeddings.format import open_table
from stages.encoders import card as imported
from stages.encoders.spec import require
from stages.questions import series, trend
from stages.questions.asks.stage import EMBEDDINGS, ENCODER
from stages.questions.format import note, put_rows, split_tap
from stages.questions.painted import painting
from stages.questions.series import Series

if TYPE_CHECKING:
    from stages.questions.layers.stage import Layers

QUESTION = "layers"
KEPT, PROBE, R = (f"{metric} by depth" for metric in (series.KEPT, series.PROBE, series.R))


def answer(stage: "Layers", inputs: Inputs, out: Output, device: str) -> Summary:
    """Rows of every encoder with enough taps; the summary holds the verdicts. Samples are read on `device`."""
    found = painting(inputs)
    rows = [note(QUESTION, "rules", ":", trend.RULE)]
    networks: list[Series] = []
    for encoder in dict.fromkeys(split_tap(tap_id)[0] for tap_id in found.tap_ids):
        tap_ids = in_order(stage, inputs, encoder, found.tap_ids)
        names = tuple(split_tap(tap_id)[1] for tap_id in tap_ids)
        if len(tap_ids) < trend.POINTS_MIN:
            why = f"{encoder} has {len(tap_ids)} of the {trend.POINTS_MIN} taps that a trend needs."
            rows.append(note(QUESTION, KEPT, f"{encoder}:", why))
        else:
            networks.append(Series(QUESTION, "depth", "tap", f"{encoder}:", tuple(tap_ids), names))
    wanted = [tap_id for network in networks for tap_id in network.tap_ids]
    every = (
        series.kept(inputs, found, wanted, stage.seed, device),
        series.probed(inputs, found, wanted, stage.train, stage.seed),
        series.moved(inputs, wanted),
    )
    for network in networks:
        for measured in every:
            rows += network.rows(measured, stage.seed) if measured is not None else ()
    rows = put_rows(out, rows)
    return {
        "sources": len(found.rows),
        "verdicts": {f"{r.encoder} {r.subject}": r.verdict for r in rows if r.metric == KEPT + series.TREND},
    }


def in_order(stage: "Layers", inputs: Inputs, encoder: str, asked: Sequence[str]) -> list[str]:
    """The taps of an encoder that were asked about, as `encoder:tap`, from the first to the last.

    Raises InputError where the study names an encoder or a tap that is not there.
    """
    table = open_table(inputs[EMBEDDINGS + encoder])
    for name in stage.order:
        require("encoder under `order`", name, {split_tap(tap_id)[0] for tap_id in asked})
    known = list(table.taps)
    if encoder in stage.order:
        for tap in stage.order[encoder]:
            require(f"tap of {encoder}", tap, known)
        known = list(stage.order[encoder])
    elif (artifact := inputs.get(ENCODER + encoder)) is not None and imported.CARD in artifact.names():
        named = imported.parse_card(artifact.read(imported.CARD)).named_taps
        known = [*named, *(tap for tap in known if tap not in named)]
    return [f"{encoder}:{tap}" for tap in known if f"{encoder}:{tap}" in asked]
