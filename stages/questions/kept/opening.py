"""What kept says first of the encoders: which attributes one keeps and another has lost, the widest gap first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, tap_id_of
from stages.questions.drawing.markup import anchor, fill
from stages.questions.drawing.numbers import interval, plain, span
from stages.questions.drawing.section import Remark, TapVerdict
from stages.questions.drawing.taps import StyledTap, by_family
from stages.questions.format import BOTH, DUPLICATE, Row, joined
from stages.questions.kept import matrix, verdicts

TEMPLATE = Path(__file__).with_name("section.html")
NAMED = 3
"""Attributes that a sentence names at most."""
SHARE = 0.5
"""Of the widest gap of an attribute that families must reach to be named beside the one that has it."""
LESS = {"LOST": "has lost it", "PARTLY": "keeps it only in part", "KEPT": "keeps less of it"}
"""Verdicts of the tap that keeps less, in words."""


@dataclass(frozen=True)
class Contrast:
    """An attribute that one tap keeps, and another keeps less of or has lost.

    `gap` is the lower end of the paired difference of kept between the two ends of an encoder; between encoders, of
    which no paired difference is asked, the distance from one interval to the other.
    """

    attribute: str
    more: Row
    less: Row
    gap: float

    @property
    def words(self) -> Markup:
        """The contrast as a sentence."""
        one, other = tap_id_of(self.more), tap_id_of(self.less)
        same = self.more.encoder == self.less.encoder
        what = Markup("<strong>{}</strong>").format(plain(self.attribute))
        if same:
            return Markup("{}: the {} keeps {}, the {} {}.").format(
                self.more.encoder, self.more.tap, what, self.less.tap, LESS[self.less.verdict]
            )
        return Markup("{} keeps {}; {} {}.").format(one, what, other, LESS[self.less.verdict])


class Scores:
    """Kept and its verdicts by tap and attribute: those that the opening is about.

    These are the attributes that are known of each image, or all where none is. Of those that measure the same, the
    first counts.
    """

    def __init__(self, kept: Answer, taps: Sequence[StyledTap]) -> None:
        closed = {row.subject for row in kept.where("reader") if row.unit == verdicts.NOISY}
        twice = {row.subject for row in kept.where(DUPLICATE)}
        named = list(dict.fromkeys(row.subject for row in kept.where("kept") if row.subject not in twice))
        self.attributes = [name for name in named if name not in closed] or named
        self.by = {(tap_id_of(row), row.subject): row for row in kept.where("kept") if row.verdict}
        self.paired = {(row.encoder, row.subject): row for row in kept.where("kept difference") if row.tap == BOTH}
        families = by_family([tap for tap in taps if tap.studied] or taps)
        self.encoders = {encoder: own for members in families.values() for encoder, own in members.items()}
        self.families = {family: list(members) for family, members in families.items()}

    def contrast(self, attribute: str, one: StyledTap, other: StyledTap) -> Contrast | None:
        """The contrast between two taps; None where there is none, or where a verdict is not on the encoder."""
        rows = [self.by.get((tap.id, attribute)) for tap in (one, other)]
        more, less = rows
        if more is None or less is None:
            return None
        if more.value < less.value:
            more, less = less, more
        if more.verdict != "KEPT" or less.verdict not in LESS:
            return None
        gap = more.low - less.high
        if one.encoder == other.encoder and (paired := self.paired.get((one.encoder, attribute))) is not None:
            gap = paired.low if paired.value > 0 else -paired.high
        return Contrast(attribute, more, less, gap) if math.isfinite(gap) and gap > verdicts.EFFECT_MIN else None

    def inside(self, encoder: str) -> dict[str, Contrast]:
        """By attribute the contrast between the first and the last tap of an encoder."""
        own = self.encoders[encoder]
        found = {name: self.contrast(name, own[0], own[-1]) for name in self.attributes} if len(own) > 1 else {}
        return {name: contrast for name, contrast in found.items() if contrast is not None}

    def between(self, encoder: str, other: str) -> dict[str, Contrast]:
        """By attribute the contrast between two encoders, each at its first tap."""
        ends = self.encoders[encoder][0], self.encoders[other][0]
        found = {name: self.contrast(name, *ends) for name in self.attributes}
        return {name: contrast for name, contrast in found.items() if contrast is not None}

    def strongest(self) -> Contrast | None:
        """The contrast with the widest gap."""
        names = list(self.encoders)
        found = [c for name in names for c in self.inside(name).values()]
        found += [c for i, one in enumerate(names) for two in names[:i] for c in self.between(one, two).values()]
        return max(found, key=lambda contrast: contrast.gap, default=None)


def remarks(scores: Scores) -> Iterator[Remark]:
    """What is to be said of each family: what it loses on the way, what sets it apart, what it keeps."""
    for family in scores.families:
        contrasts = [*_inside(scores, family), *_between(scores, family)]
        yield from sorted(contrasts, key=lambda remark: -remark.strength)
        if not contrasts:
            yield from _common(scores, family)


def _in_all(found: Sequence[Mapping[str, Contrast]]) -> list[tuple[float, str, list[Contrast]]]:
    """The attributes of which all members show a contrast in the same direction, the widest least gap first."""
    shared = [name for name in found[0] if all(name in one for one in found)] if found else []
    entries = [(min(one[name].gap for one in found), name, [one[name] for one in found]) for name in shared]
    return sorted(entries, key=lambda entry: (-entry[0], entry[1]))


def _inside(scores: Scores, family: str) -> Iterator[Remark]:
    """What is lost from the first to the last tap, and what is gained, in every member."""
    members = scores.families[family]
    ends = scores.encoders[members[0]]
    for lost in (True, False):
        start = ends[0].tap if lost else ends[-1].tap
        found = [
            {name: c for name, c in scores.inside(encoder).items() if (c.more.tap == start)} for encoder in members
        ]
        if entries := _in_all(found):
            lost_in_all = lost and _all_lost(entries[0][2])
            entries = [entry for entry in entries if _all_lost(entry[2])] if lost_in_all else entries
            named = _named([name for _, name, _ in entries])
            gap, name, widest = entries[0]
            if lost_in_all:
                text = Markup("Loses {} from the {} to the {}").format(named, ends[0].tap, ends[-1].tap)
            else:
                text = Markup("Keeps {} of {} at the {} than at the {}").format(
                    "less" if lost else "more", named, ends[-1].tap, ends[0].tap
                )
            yield Remark(family, text + _numbers(name, widest), anchor("differences", members[0], name), gap)


def _all_lost(contrasts: Sequence[Contrast]) -> bool:
    return all(contrast.less.verdict == "LOST" for contrast in contrasts)


def _between(scores: Scores, family: str) -> Iterator[Remark]:
    """What every member keeps and every member of another family does not, and the reverse, at the first taps."""
    members = scores.families[family]
    at = scores.encoders[members[0]][0].tap
    for keeps in (True, False):
        by_name: dict[str, list[tuple[float, str, list[Contrast]]]] = {}
        for other, others in scores.families.items():
            if other == family:
                continue
            found = [
                {name: c for name, c in scores.between(one, two).items() if (c.more.encoder == one) == keeps}
                for one in members
                for two in others
            ]
            for gap, name, contrasts in _in_all(found):
                by_name.setdefault(name, []).append((gap, other, contrasts))
        if not by_name:
            continue
        best: dict[str, tuple[float, list[str], list[Contrast]]] = {}
        for name, entries in by_name.items():
            wide = [entry for entry in entries if entry[0] >= SHARE * max(gap for gap, _, _ in entries)]
            best[name] = (min(gap for gap, _, _ in wide), [o for _, o, _ in wide], [c for *_, cs in wide for c in cs])
        name = max(best, key=lambda name: (best[name][0], name))
        gap, others, contrasts = best[name]
        named = [other for other in best if best[other][1] == others]
        named.sort(key=lambda other: (-best[other][0], other))
        if _all_lost(contrasts):
            named = [other for other in named if _all_lost(best[other][2])]
            verb = ("has lost" if keeps else "keeps") if len(others) == 1 else ("have lost" if keeps else "keep")
            text = Markup("{} {}, which {} {}").format(
                "Keeps" if keeps else "Has lost", _named(named), joined(others), verb
            )
        else:
            text = Markup("Keeps {} of {} than {}").format("more" if keeps else "less", _named(named), joined(others))
        yield Remark(family, text + _numbers(name, contrasts), anchor("kept", f"{members[0]}:{at}", name), gap)


def _common(scores: Scores, family: str) -> Iterator[Remark]:
    """What every member keeps or has lost at its first tap, where no contrast is shown."""
    firsts = [scores.encoders[encoder][0] for encoder in scores.families[family]]

    def all_of(verdict: str) -> list[str]:
        rows = {name: [scores.by.get((tap.id, name)) for tap in firsts] for name in scores.attributes}
        return [name for name, found in rows.items() if all(r is not None and r.verdict == verdict for r in found)]

    kept, lost = all_of("KEPT"), all_of("LOST")
    clauses = [Markup("keeps {}").format(_named(kept))] if kept else []
    clauses += [Markup("has lost {}").format(_named(lost))] if lost else []
    if clauses:
        text = Markup(" and ").join(clauses)
        yield Remark(family, text[:1].upper() + text[1:] + Markup("."), "kept")


def _named(attributes: Sequence[str]) -> Markup:
    """The first few attributes in bold, and how many more there are."""
    shown = [Markup("<strong>{}</strong>").format(plain(name)) for name in attributes[:NAMED]]
    if more := len(attributes) - NAMED:
        shown += [Markup("{} more").format(more)] if more > 0 else []
    return Markup(" and ").join([Markup(", ").join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _numbers(name: str, contrasts: Sequence[Contrast]) -> Markup:
    """The numbers of one attribute: kept at both taps."""
    more, less = (span({getattr(c, end).value for c in contrasts}) for end in ("more", "less"))
    return Markup(' <span class="numbers">({}: kept {} against {})</span>.').format(plain(name), more, less)


def tap_verdicts(kept: Answer, taps: Sequence[StyledTap]) -> Iterator[TapVerdict]:
    """The line on each tap."""
    for found in matrix.sentences(kept, taps):
        yield TapVerdict(found.tap, fill(TEMPLATE, "tally", entries=found.tally), found.text)


def claim(contrast: Contrast) -> Markup:
    """The contrast as the page opens with it, with its numbers."""
    return Markup('{} <span class="numbers">(kept {} against {})</span>').format(
        contrast.words, interval(contrast.more), interval(contrast.less)
    )
