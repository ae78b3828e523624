"""Studies an encoder of one's own on 512 drawn scenes, in about a minute, and opens what the study leaves.

    python examples/own_encoder.py [FOLDER]

FOLDER (default: own-encoder) receives the weights, the study and its store. The study is far too short to
say anything of the network: raise `num_images` of the decoder, and `count` of the scenes, for that.
"""

import sys
from pathlib import Path

import torch
import yaml
from network import make

import repscope


def study_of(weights: Path) -> dict[str, object]:
    """The study as a YAML file would have it."""
    return {
        "study": "own-encoder",
        "title": "What my network knows",
        "dataset": {
            "listing": {"source": {"kind": "scenes", "count": 512, "seed": 0}},
            "shards": {"shard_rows": 128},
        },
        "encoders": {
            "mine": {
                "kind": "torch",
                "factory": f"{Path(__file__).resolve().with_name('network.py')}:make",
                "weights": str(weights),
                "taps": ["projection"],
                "preprocessing": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
            }
        },
        "readers": {"num_images": 1024, "widths": [8, 16]},
        "probes": {"epochs": 2},
        "decoder": {
            "taps": ["mine:backbone", "mine:projection"],
            "num_images": 512,
            "network": {"channels": [16, 32], "blocks": [1, 1], "width": 32, "sketch": [32, 64]},
            "training": {"sketch_images": 2048},
        },
        "sources": {"count": 16},
        "samples": {"per_source": 3, "steps": 4},
        "questions": {"kept": {"shown": 4}},
    }


def main(folder: Path) -> None:
    """Runs the study, and looks for the neighbours of its first image."""
    folder.mkdir(parents=True, exist_ok=True)
    # In place of a training: a network without weights from a file would be refused.
    torch.manual_seed(0)
    torch.save(make().state_dict(), folder / "mine.pth")
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump(study_of((folder / "mine.pth").resolve()), sort_keys=False))

    store = folder / "store"
    for state in repscope.plan(study, store):
        print(f"{state.name:24}  {state.state}")
    result = repscope.run(study, store, executor="inline")
    for line in result.summary("report").get("headlines", ()):
        print(line)
    print(f"report: {result.url('report')}/report.html")

    table = repscope.open(store).study("own-encoder")["mine:projection"]
    print(table)
    first = table.rows.column("key")[0].as_py()
    print(table.nearest(first, k=3).select(["name", "shape", "distance"]).to_pylist())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own-encoder"))
