"""Files that bring Repscope to a cluster: an image, a RayJob of KubeRay, a cluster of `ray up`, a job of Slurm.

In a template stands `{{name}}` for a value, which is put in as the file's language writes a text: as JSON in YAML, in
the quotes of the shell in a script.
"""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

PLACE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Target:
    """A template, the values that it needs, and how a text is written in it."""

    file: str
    quote: Callable[[str], str] = json.dumps

    @property
    def template(self) -> str:
        """Its text."""
        return (files(__name__) / self.file).read_text(encoding="utf-8")

    @property
    def needs(self) -> frozenset[str]:
        """The names of its values."""
        return frozenset(PLACE.findall(self.template))

    def render(self, values: Mapping[str, str]) -> str:
        """The file with these values."""
        return PLACE.sub(lambda place: self.quote(values[place[1]]), self.template)


TARGETS = {
    "docker": Target("Dockerfile"),
    "kuberay": Target("kuberay.yaml"),
    "ray-up": Target("ray-up.yaml"),
    "slurm": Target("slurm.sh", shlex.quote),
}
