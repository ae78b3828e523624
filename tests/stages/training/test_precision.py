"""Networks compute in what their device is fast in, all ranks in the same, and the receipt says in what."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.decoder.loop import fit
from stages.pretrain.loop import Trainer
from stages.training import precision
from stages.training.precision import Precision, agreed, arithmetic, computed, half, noted, trial
from tests.artifacts import InlineContext, MemoryCheckpoints
from tests.stages.decoder.small import TRAINING, training
from tests.stages.pretrain.small import STAGE, held
from tests.two_ranks import on_two_ranks

TAPS = ("a:colour", "b:colour")
SLOW: dict[Precision, float] = {"bfloat16": 2.0, "float32": 1.0}
"""What a trial finds on a CPU without instructions for bfloat16."""
FAST: dict[Precision, float] = {"bfloat16": 1.0, "float32": 2.0}
BFLOAT16 = TRAINING.model_copy(update={"precision": "bfloat16"})


def chosen_in_a_new_process(**environment: str) -> str:
    code = "from stages.training.precision import computed; print(computed('bfloat16', 'cpu'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout.strip()


@pytest.mark.parametrize(("found", "expected"), [(SLOW, "float32"), (FAST, "bfloat16")])
def test_bfloat16_is_taken_where_it_is_the_quicker(
    found: dict[Precision, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "trial", lambda: found)
    assert computed("bfloat16", "cpu") == expected
    assert computed("float32", "cpu") == "float32"


def test_without_instructions_for_it_a_cpu_does_not_compute_in_bfloat16() -> None:
    # Intel's and AMD's alone are held back by the setting: elsewhere it changes nothing.
    held_back = platform.machine() in ("x86_64", "AMD64")
    assert chosen_in_a_new_process(ONEDNN_MAX_CPU_ISA="AVX2") == (
        "float32" if held_back else computed("bfloat16", "cpu")
    )


def test_a_cpu_with_matrix_units_for_bfloat16_uses_them_and_one_with_nothing_for_it_does_not() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    expected = {"bfloat16", "float32"}
    if "amx_bf16" in flags:
        expected = {"bfloat16"}
    elif "avx2" in flags and not {"avx512_bf16", "avx_ne_convert"} & flags:
        expected = {"float32"}
    assert chosen_in_a_new_process(ONEDNN_MAX_CPU_ISA="DEFAULT") in expected


def test_the_trial_leaves_no_trace_and_runs_where_gradients_are_off() -> None:
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    trial.cache_clear()
    with torch.inference_mode():
        found = trial()
    assert found["bfloat16"] > 0 < found["float32"]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)
    assert trial() is found


@pytest.mark.parametrize(("major", "expected"), [(7, "float32"), (8, "bfloat16")])
def test_a_gpu_without_units_for_bfloat16_computes_in_float32(
    major: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or major >= 8

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert computed("bfloat16", "cuda:0") == expected


def test_what_is_computed_in_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "trial", lambda: SLOW)
    with noted() as outer:
        with arithmetic("bfloat16", "cpu"):
            assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32
        monkeypatch.setattr(precision, "trial", lambda: FAST)
        with noted() as inner, half("bfloat16", "cpu"):
            assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
    with arithmetic("float32", "cpu"):
        pass
    assert (outer, inner) == ({"bfloat16", "float32"}, {"bfloat16"})


def on_a_rank(rank: int, slow_rank: int | None) -> tuple[str, str, str, bytes]:
    """What a rank chooses, what a training on it computes in, and the weights at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "trial", lambda: SLOW if rank == slow_rank else FAST)
        mine = training(16, BFLOAT16, rank=rank, world=2)
        fit(mine, InlineContext(rank=rank, world=2), 10**6, TAPS)
        assert mine.second.muon is not None
        chosen = agreed("bfloat16", "cpu", 2)
        return (
            chosen,
            mine.precision,
            mine.second.muon.precision,
            mine.second.flat.values.numpy().tobytes(),
        )


@pytest.mark.parametrize(("slow_rank", "expected"), [(None, "bfloat16"), (1, "float32")])
def test_ranks_compute_in_one_precision_that_of_the_slowest(
    slow_rank: int | None, expected: str, tmp_path: Path
) -> None:
    first, second = on_two_ranks(on_a_rank, tmp_path, slow_rank)
    assert first[:3] == second[:3] == (expected,) * 3
    assert first[3] == second[3]


def test_a_training_goes_on_where_bfloat16_is_slow_from_the_weights_of_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(1)
    checkpoints = MemoryCheckpoints()
    monkeypatch.setattr(precision, "trial", lambda: FAST)
    first = training(64, BFLOAT16)
    fit(first, InlineContext(checkpoints=checkpoints), 32, TAPS)
    checkpoints.kept = checkpoints.kept[:1]
    monkeypatch.setattr(precision, "trial", lambda: SLOW)
    second = training(64, BFLOAT16)
    with noted() as found:
        fit(second, InlineContext(checkpoints=checkpoints), 10**6, TAPS)
    assert found == {"float32"}
    distance = float((second.second.flat.values - first.second.flat.values).norm() / first.second.flat.values.norm())
    assert 0 < distance < 0.02


def test_pretraining_computes_in_what_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((STAGE.batch, 16, 16, 3), np.uint8)
    for found, expected in ((SLOW, "float32"), (FAST, "bfloat16")):
        monkeypatch.setattr(precision, "trial", lambda found=found: found)
        stage = STAGE.model_copy(update={"precision": "bfloat16"})
        with noted() as computed_in:
            Trainer(stage, held(stage, images), "cpu").advance()
        assert computed_in == {expected}
