"""Templates to HTML. Those of sections hold macros; `markup.html`, beside this file, has the macros that they share."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

if TYPE_CHECKING:
    import jinja2

STAGES = Path(__file__).parents[2]
"""Templates name each other by their path below this folder."""


def fill(template: Path, macro: str, **content: Any) -> Markup:
    """The HTML of a template's macro. What is no `Markup` is escaped."""
    found = getattr(load_template(template).module, macro)
    return Markup(found(**content))


def anchor(*names: str) -> str:
    """An id of the page, and the fragment of a URL that leads to it: `kept/simclr:projector/background_hue`.

    Different names give different anchors. A space is a plus; what a fragment cannot hold is escaped, in the id too,
    since browsers compare the two as they are written.
    """
    return "/".join(quote(name, safe=":,() ").replace(" ", "+") for name in names)


def load_template(path: Path) -> "jinja2.Template":
    """A template below the folder `stages`; a name that it does not define is an error."""
    return _environment().get_template(path.relative_to(STAGES).as_posix())


@lru_cache
def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(STAGES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.globals["anchor"] = anchor
    return environment
