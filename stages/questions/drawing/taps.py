"""How a tap is drawn on the page: one mark and colour, the same in every chart.

Encoders under study get a hue and a shape each, and a mark that empties on the way: filled at the backbone, dotted
inside the projector, hollow at its end. Encoders that differ in the seed of their training alone are a family: they
share the hue and differ in shape. References (oracle and untrained encoders) are grey. Mark and colour are never the
only sign: a name stands beside them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.questions.drawing.charts import symbol

HUES = 6
SHAPES = ("circle", "square", "triangle", "diamond")
REFERENCE_SHAPES = ("diamond", "square", "triangle", "circle")


@dataclass(frozen=True)
class StyledTap:
    """One tap of one encoder: `id` is `encoder:tap`, `style` its class on the page, `shape` its mark."""

    id: str
    encoder: str
    tap: str
    style: str
    shape: str
    colour: str
    studied: bool
    width: int | None = None
    family: str = ""
    """Name of the encoders that differ in the seed of their training alone; its own where it is alone."""
    group: int = 0
    """Which extension taught it to the decoder; 0: it belongs to the decoder itself."""

    @property
    def key(self) -> Markup:
        """The mark, for legends."""
        return symbol(self.style, self.shape)

    @property
    def numbers(self) -> str:
        """What the decoder was given."""
        return "a vector" if self.width is None else f"{self.width} numbers"


def assign_styles(
    tap_ids: Sequence[str],
    studied: Collection[str],
    widths: Mapping[str, int],
    groups: Mapping[str, int] | None = None,
    families: Mapping[str, str] | None = None,
) -> list[StyledTap]:
    """Marks and colours of taps (`encoder:tap`): those of encoders in `studied` first, otherwise in their order.

    `families` names the family of an encoder; who is not in it is its own.
    """
    split = [(tap_id, *tap_id.split(":", 1)) for tap_id in tap_ids]
    members: dict[str, list[str]] = {}
    for encoder in dict.fromkeys(encoder for _, encoder, _ in split if encoder in studied):
        members.setdefault((families or {}).get(encoder, encoder), []).append(encoder)
    marks = {encoder: _mark(*at) for encoder, at in _positions(members).items()}
    family_of = {encoder: family for family, encoders in members.items() for encoder in encoders}
    styled: list[StyledTap] = []
    references = 0
    for tap_id, encoder, tap in sorted(split, key=lambda entry: entry[1] not in studied):
        number = len(styled)
        if encoder in studied:
            shape, colour = marks[encoder]
            shape += {"backbone": "", "projector": "-open"}.get(tap, "-dot")
        else:
            shape, colour = REFERENCE_SHAPES[references % len(REFERENCE_SHAPES)], "var(--reference)"
            shape += "-open" if (references // len(REFERENCE_SHAPES)) % 2 else ""
            references += 1
        group = (groups or {}).get(tap_id, 0)
        style = f"tap-{number}"
        family = family_of.get(encoder, encoder)
        styled.append(
            StyledTap(tap_id, encoder, tap, style, shape, colour, encoder in studied, widths.get(tap_id), family, group)
        )
    return styled


def by_family(taps: Sequence[StyledTap]) -> dict[str, dict[str, list[StyledTap]]]:
    """The taps of each encoder of each family, in their order."""
    found: dict[str, dict[str, list[StyledTap]]] = {}
    for tap in taps:
        found.setdefault(tap.family, {}).setdefault(tap.encoder, []).append(tap)
    return found


def _positions(members: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Per encoder the rank of its hue and of its shape. Shapes differ in a family, and between lone encoders too."""
    lone = all(len(encoders) == 1 for encoders in members.values())
    return {
        encoder: (rank, rank + rank // (HUES * 2) if lone else rank // HUES + number)
        for rank, encoders in enumerate(members.values())
        for number, encoder in enumerate(encoders)
    }


def _mark(hue: int, shape: int) -> tuple[str, str]:
    return SHAPES[shape % len(SHAPES)], f"var(--c{hue % HUES + 1})"


def style_sheet(taps: Sequence[StyledTap]) -> Markup:
    """The rules that colour a tap and that hide it when it is switched off."""
    rules = [f".{tap.style} {{ --tap: {tap.colour}; }}" for tap in taps]
    rules += [f".without-{tap.style} main .{tap.style} {{ display: none; }}" for tap in taps]
    return Markup("\n".join(rules))
