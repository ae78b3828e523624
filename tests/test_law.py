"""The one law of the three rooms, and light at the door."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "stages", "cluster")
ORDER = (
    "training",
    "external",
    "images",
    "datasets",
    "listing",
    "shards",
    "encoders",
    "pretrain",
    "embeddings",
    "diffusion",
    "decoder",
    "readers",
    "samples",
    "questions",
    "show",
    "report",
    "explorer",
)
GPU = "gpu: ClassVar[bool] = True"
HEAVY = {
    "torch",
    "torchvision",
    "ray",
    "zarr",
    "numpy",
    "pandas",
    "pyarrow",
    "lightly",
    "sklearn",
    "scipy",
    "PIL",
    "jinja2",
    "fsspec",
    "s3fs",
    "webdataset",
    "timm",
    "transformers",
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(room: str) -> list[Path]:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    return files


def defines_a_stage(path: Path) -> bool:
    """Whether a module is one that the graph imports: it has a class with a `name`, a `version` and `bitwise`."""
    wanted = {"name", "version", "bitwise"}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            fields = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
            if wanted <= fields and node.name != "Stage":
                return True
    return False


def module(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_stages_and_cluster_import_neither_each_other_nor_the_pipeline() -> None:
    for room in ("stages", "cluster"):
        forbidden = {other for other in ROOMS if other != room} | ({"ray"} if room == "stages" else set())
        for path in sources(room):
            crossing = {name for name in imports(path) if name.split(".")[0] in forbidden}
            assert not crossing, f"{path.relative_to(ROOT)} imports {sorted(crossing)}"


def test_a_room_inside_stages_imports_earlier_rooms_only_and_never_their_stage() -> None:
    stages = {module(path) for path in sources("stages") if defines_a_stage(path)}
    assert len(stages) > 15
    for path in sources("stages"):
        parts = path.relative_to(ROOT / "stages").parts
        room = parts[0] if len(parts) > 1 else None
        for name in imports(path):
            pieces = name.split(".")
            if pieces[0] != "stages" or len(pieces) < 2 or pieces[1] not in ORDER or pieces[1] == room:
                continue
            where = f"{path.relative_to(ROOT)} imports {name}"
            assert room is not None, f"{where}: a file beside the rooms knows no room"
            assert room != "diffusion", f"{where}: diffusion is maths only"
            assert ORDER.index(pieces[1]) < ORDER.index(room), f"{where}: against the order of the data"
            assert not {name, name.rpartition(".")[0]} & stages, f"{where}: a stage is its room's own"


def test_a_question_is_known_to_its_own_folder_and_to_the_catalogue_alone() -> None:
    folder = ROOT / "stages" / "questions"
    questions = {path.parent.name for path in folder.glob("*/answer.py")}
    assert {path.parent.name for path in folder.glob("*/section.py")} == questions | {"drawing"}
    for path in [path for room in ROOMS for path in sources(room)]:
        own = path.parent.name if path.parent.parent == folder else None
        where = f"{path.relative_to(ROOT)} imports"
        for name in imports(path):
            pieces = name.split(".")
            if pieces[:2] == ["stages", "questions"] and pieces[2:] and pieces[2] in questions:
                assert pieces[2] == own or path == folder / "catalogue.py", f"{where} {name}: a question is its own"
                assert pieces[3:4] != ["section"], f"{where} {name}: a section is imported by the report, by name"
            if name == "stages.questions.catalogue":
                assert path.is_relative_to(ROOT / "pipeline") or path.parent == ROOT / "stages" / "report", where


def test_a_stage_says_that_it_uses_a_gpu_exactly_where_it_looks_at_the_device() -> None:
    for path in sources("stages"):
        for stage in (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)):
            setups = [node for node in stage.body if isinstance(node, ast.FunctionDef) and node.name == "setup"]
            uses = any(isinstance(node, ast.Name) and node.id == "device" for each in setups for node in ast.walk(each))
            declares = any(isinstance(node, ast.AnnAssign) and ast.unparse(node) == GPU for node in stage.body)
            assert uses == declares, f"{path.relative_to(ROOT)}: {stage.name}"


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {path.parent.name for path in (ROOT / "stages").glob("*/__init__.py")}
    assert rooms == set(ORDER)


@pytest.mark.parametrize("module", ["pipeline.cli", "pipeline.study", "pipeline.graph"])
def test_the_door_is_light(module: str) -> None:
    """Every stage is imported by the graph; none of the heavy packages may come with it."""
    code = f"import {module}, sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert not HEAVY & set(loaded)


def test_every_stage_file_is_light() -> None:
    files = [*sources("stages")]
    names = [module(p) for p in files if p.name in {"contract.py", "__init__.py", "spec.py"} or defines_a_stage(p)]
    code = (
        f"import importlib, sys, json\nfor n in {names!r}: importlib.import_module(n)\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert not HEAVY & set(loaded)


def test_there_is_no_utils() -> None:
    names = [path.stem for room in ROOMS for path in sources(room)]
    assert not {"utils", "util", "helpers", "misc", "common"} & set(names)
