"""Progress of trainings is kept, thinned, and becomes files that TensorBoard reads."""

import struct
from pathlib import Path

from click.testing import CliRunner

from pipeline.cli import main
from pipeline.events import KEPT_OF_A_TRAINING, Event, EventLog, read_events, run_ids
from pipeline.store import open_store
from pipeline.tensorboard import SUFFIX, export
from tests.finished import Finished


def progress(done: int, attempt: int = 1, step: str = "decoder", **metrics: float) -> Event:
    """A report of a training of 100 images."""
    return Event("progress", step, 1000.0 + done, {"done": done, "total": 100, "metrics": metrics, "attempt": attempt})


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar in a folder, by the record format of TensorFlow's event files."""
    from tensorboardX.proto.event_pb2 import Event as Record

    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record, data = Record.FromString(data[12 : 12 + length]), data[16 + length :]
        found += [(value.tag, record.step, round(value.simple_value, 4)) for value in record.summary.value]
    return found


def test_each_training_is_a_run_of_its_own_with_all_its_scalars(tmp_path: Path) -> None:
    reports = [
        progress(10, loss=0.5),
        progress(10, step="encoder.a", loss=2.0),
        progress(20, loss=0.25, learning_rate=0.1),
    ]
    assert export([Event("run_started", "", 0.0), *reports], tmp_path) == ["decoder", "encoder.a"]
    assert scalars(tmp_path / "decoder") == [("loss", 10, 0.5), ("loss", 20, 0.25), ("learning_rate", 20, 0.1)]
    assert scalars(tmp_path / "encoder.a") == [("loss", 10, 2.0)]


def test_what_an_attempt_repeats_stands_once(tmp_path: Path) -> None:
    reports = [
        progress(10, loss=1.0),
        progress(20, loss=2.0),
        progress(30, loss=3.0),
        progress(20, attempt=2, loss=4.0),
    ]
    export(reports, tmp_path)
    assert scalars(tmp_path / "decoder") == [("loss", 10, 1.0), ("loss", 20, 4.0)]


def test_an_export_replaces_the_one_before_and_leaves_other_files_alone(tmp_path: Path) -> None:
    other = tmp_path / "decoder" / "events.out.tfevents.1.host"
    other.parent.mkdir()
    other.touch()
    for _ in range(2):
        export([progress(10, loss=1.0)], tmp_path)
    assert other.exists()
    assert len(list(other.parent.glob(f"*{SUFFIX}"))) == 1


def test_long_trainings_are_kept_thinned_and_to_the_end(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.prepare()
    log = EventLog(store, None)
    log.keep("run")
    total = 5 * KEPT_OF_A_TRAINING - 1
    for done in range(1, total + 1):
        log.emit("progress", "decoder", done=done, total=total, metrics={}, attempt=1)
    log.emit("progress", "decoder", done=1, total=total, metrics={}, attempt=2)
    log.flush()
    kept = [(event.fields["attempt"], event.fields["done"]) for event in read_events(store, "run")]
    assert kept[-2:] == [(1, total), (2, 1)]
    assert 0.9 * KEPT_OF_A_TRAINING < len(kept) <= KEPT_OF_A_TRAINING + 2


def test_the_command_exports_a_run_and_the_log_leaves_progress_out(finished: Finished, tmp_path: Path) -> None:
    common = ["log", str(finished.study), "--store", str(finished.store)]
    done = CliRunner().invoke(main, [*common, "--tensorboard", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (run_id,) = run_ids(open_store(str(finished.store)))
    tags = {tag for tag, _, _ in scalars(tmp_path / run_id / "decoder")}
    assert {"loss", "learning_rate"} < tags
    assert any(tag.startswith("heldout/") for tag in tags)
    assert "progress" not in CliRunner().invoke(main, common).output
