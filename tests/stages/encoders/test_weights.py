"""Files of weights: any URL, known by sha256, never code; what does not fit is named."""

import gzip
import io
from argparse import Namespace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torchvision.models.densenet import _DenseBlock
from torchvision.models.vision_transformer import MLPBlock
from torchvision.ops.misc import FrozenBatchNorm2d

from stages.encoders.weights import fill, read, state_of, unwrapped
from stages.errors import InputError


class Evil:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def first_weight(target: nn.Sequential) -> torch.Tensor:
    weight = target[0].weight
    assert isinstance(weight, torch.Tensor)
    return weight


def torch_bytes(document: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(document, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("old", [False, True])
def test_a_file_that_would_run_code_is_refused_unread(old: bool, tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"x": torch.ones(1)}, "args": Evil()}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(InputError, match=r"more than tensors and plain data.*safetensors\.torch\.save_file"):
        read(path)


def test_plain_data_of_trainers_beside_the_tensors_is_read(tmp_path: Path) -> None:
    document = {
        "args": Namespace(arch="resnet50", lr=[0.1]),
        "best": np.float64(0.7),
        "losses": np.arange(3.0),
        "classes": np.array(["cat", "dog"]),
        "random": np.random.get_state(),
        "half": np.float16(1),
        "model": {"module.x": torch.ones(2)},
    }
    torch.save(document, tmp_path / "w.pth")
    assert state_of(read(tmp_path / "w.pth"))["x"].tolist() == [1, 1]


@pytest.mark.parametrize("data", [b"no weights at all", b"PK\x03\x04 not a zip", b"\x80\x02}q\x00."])
def test_what_is_no_file_of_weights_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(InputError, match=r"w\.pth to be safetensors|tensors by name"):
        state_of(read(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_pointer_of_git_lfs_is_answered_with_what_fetches_the_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 346000000\n")
    with pytest.raises(InputError, match=rf"{name} to hold weights; found a pointer of Git LFS.*git lfs pull"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("page", r"a web page\. Download the file itself"),
        ("index", r"JSON, .*an index of several files\. Name a file of weights"),
        ("npz", r"a NumPy archive \(npz\)\. Save its arrays as tensors"),
        ("script", r"a TorchScript file, which is a program\. Save `state_dict\(\)`"),
        ("gzip", r"a gzip archive\. Unpack it"),
        ("hdf5", r"an HDF5 file\. Convert it"),
        ("zip", r"a zip archive of model\.pth\. Unpack it"),
        ("empty", r"an empty file\. Bring it here again"),
        ("zeros", r"nothing but zeros\. Bring it here again"),
        ("refusal", r"a web page\. Download the file itself"),
    ],
)
def test_a_file_of_another_kind_is_answered_with_its_kind_and_what_to_do(kind: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if kind == "script":
        # The entries of what torch.jit.save writes.
        with ZipFile(path, "w") as archive:
            for name in ("w/data.pkl", "w/code/__torch__.py", "w/constants.pkl", "w/version"):
                archive.writestr(name, b"")
    elif kind == "zip":
        with ZipFile(path, "w") as archive:
            archive.writestr("model.pth", b"")
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, x=np.ones(3))
    else:
        texts = {"page": b"\n<!DOCTYPE html><html>", "index": b'{"weight_map": {}}', "hdf5": b"\x89HDF\r\n\x1a\n"} | {
            "gzip": gzip.compress(b"x"),
            "empty": b"",
            "zeros": bytes(600),
            "refusal": b"<Error><Code>AccessDenied</Code></Error>",
        }
        path.write_bytes(texts[kind])
    with pytest.raises(InputError, match=rf"w\.pth to hold weights; found {found}"):
        read(path)


@pytest.mark.parametrize("old", [False, True])
def test_a_whole_module_is_refused_by_the_name_of_its_class(old: bool, tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    found = r"an object of torch\.nn\.modules\.container\.Sequential, as in a whole module"
    with pytest.raises(InputError, match=rf"{found}.*save `model\.state_dict\(\)`"):
        read(tmp_path / "w.pth")


def test_the_object_that_keeps_a_pickle_from_being_read_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.ones(1)}, "out": Path("/x")}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"more than tensors and plain data \(an object of pathlib\.PosixPath\)"):
        read(tmp_path / "w.pth")
    torch.save({"state_dict": {"x": torch.ones(1)}, "seen": frozenset()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"more than tensors and plain data \(an object of frozenset\)"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize("checksums", [True, False])
def test_a_file_with_other_bytes_within_is_refused_although_torch_reads_it(checksums: bool, tmp_path: Path) -> None:
    x = torch.arange(999.0)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checksums)
    try:
        whole = torch_bytes({"x": x})
    finally:
        torch.serialization.set_crc32_options(before)
    (tmp_path / "w.pth").write_bytes(whole)
    assert torch.equal(read(tmp_path / "w.pth")["x"], x)
    tail = x.numpy().tobytes()[-99:]
    (tmp_path / "w.pth").write_bytes(whole.replace(tail, bytes(99)))
    if checksums:
        with pytest.raises(InputError, match=r"a damaged file \(\w+/data/0 has another checksum\)"):
            read(tmp_path / "w.pth")
    else:
        assert not torch.equal(read(tmp_path / "w.pth")["x"], x)


def test_a_zip_archive_whose_table_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(torch_bytes({"x": torch.ones(3)}).replace(b"PK\x01\x02", b"XXXX"))
    with pytest.raises(InputError, match=r"w\.pth to be safetensors.*found a damaged file"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize("length", [0x7B20, 0x3C20])
def test_a_safetensors_file_whose_length_reads_as_text_is_read(length: int, tmp_path: Path) -> None:
    header = b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'.ljust(length)
    (tmp_path / "w.safetensors").write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert read(tmp_path / "w.safetensors")["x"].tolist() == [0]


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.ones(4)}, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-3])
    with pytest.raises(InputError, match="a damaged safetensors file"):
        read(tmp_path / "w.safetensors")


def test_the_state_dict_is_found_by_itself_or_where_the_study_says() -> None:
    x = torch.ones(1)
    assert state_of({"state_dict": {"module._orig_mod.x": x}, "epoch": 3}) == {"x": x}
    assert state_of({"student": {"x": x}, "teacher": {"backbone.x": x, "head.y": x}}, "teacher.backbone") == {"x": x}
    assert unwrapped({"module.x": x, "y": x}) == {"module.x": x, "y": x}
    with pytest.raises(InputError, match=r"tensors by name under 'encoder'; found dict with student, teacher"):
        state_of({"student": {"x": x}, "teacher": {"x": x}}, "encoder")
    with pytest.raises(InputError, match=r"tensors by name; found dict with ema"):
        state_of({"ema": {"deep": {"x": x}}})


def test_weights_fill_a_network_and_what_does_not_fit_is_named() -> None:
    target = network()
    state = {name: torch.full_like(t, 0.5) for name, t in network().state_dict().items() if t.is_floating_point()}
    assert fill(target, {name: t.half() for name, t in state.items()}).missing == []
    assert first_weight(target).dtype == torch.float32
    assert set(first_weight(target).flatten().tolist()) == {0.5}
    found = fill(target, {n: t for n, t in state.items() if n != "0.bias"} | {"head.w": torch.ones(1)}, ("head.",))
    assert (found.missing, found.unused) == (["0.bias"], ["head.w"])
    with pytest.raises(InputError, match=r"0\.weight \[4, 5\] instead of \[4, 3\]"):
        fill(target, state | {"0.weight": torch.ones(4, 5)})
    with pytest.raises(InputError, match=r"weights that it does not have: a\.x, b\.y; none for 0\.bias"):
        fill(target, {"a.x": torch.ones(1), "b.y": torch.ones(1)} | {n: t for n, t in state.items() if n != "0.bias"})


def test_the_average_over_training_is_preferred_as_in_timm_or_asked_for() -> None:
    x, y = torch.ones(1), torch.zeros(1)
    for last, average in (("state_dict", "state_dict_ema"), ("model", "model_ema")):
        document = {last: {"x": x}, average: {"x": y}, "best": torch.tensor(0.7)}
        assert state_of(document) == {"x": y}
        assert state_of(document, last) == {"x": x}
    with pytest.raises(InputError, match=r"`inside` to choose; found model and ema\. Write `inside: model` or"):
        state_of({"model": {"x": x}, "ema": {"module.x": y}})


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("model", "model_best"), "model and model_best"),
        (("state_dict", "swa"), "state_dict and swa"),
        (("network", "target"), "network and target"),
        (("state_dict", "callbacks"), r"state_dict and callbacks\.EMA"),
    ],
)
def test_of_several_sets_of_weights_by_the_same_names_the_study_says_which(names: tuple[str, str], found: str) -> None:
    x, y = torch.ones(1), torch.zeros(1)
    second = {"EMA": {"module.x": y}} if names[1] == "callbacks" else {"module.x": y}
    with pytest.raises(InputError, match=rf"one set of weights.*found {found}\. Write `inside: {names[0]}` or"):
        state_of({names[0]: {"x": x}, names[1]: second})
    same = {"EMA": {"x": x}} if names[1] == "callbacks" else {"x": x}
    assert state_of({names[0]: {"x": x}, names[1]: same, "optimizer": {"x": y}, "loss": {"y": y}}) == {"x": x}


def test_weights_in_the_only_entry_that_has_some_are_found_whatever_it_is_called() -> None:
    x = torch.ones(1)
    assert state_of({"net": {"module.x": x}, "acc": 93.1, "optimizer": {"y": x}}) == {"x": x}
    assert state_of({"teacher": {"x": x}, "student": {"x": torch.zeros(1)}}) == {"x": x}
    assert state_of({"teacher": {"backbone.x": x}}, "teacher.backbone.") == {"x": x}
    with pytest.raises(InputError, match="found dict with decoder, encoder"):
        state_of({"encoder": {"x": x}, "decoder": {"x": x}})


def test_numbers_that_a_trainer_keeps_as_tensors_hide_no_weights() -> None:
    x = torch.ones(1)
    assert state_of({"state_dict": {"module.x": x}, "best_acc1": torch.tensor(71.2), "epoch": 3}) == {"x": x}


def test_integers_in_the_place_of_weights_are_refused() -> None:
    state = {name: (10 * t).to(torch.int8) for name, t in network().state_dict().items()}
    with pytest.raises(InputError, match=r"real numbers; found int8 for 0\.weight, .*before quantisation"):
        fill(network(), state)
    quantised = {name: t.to(torch.float8_e4m3fn) for name, t in network().state_dict().items() if t.is_floating_point()}
    with pytest.raises(InputError, match=r"real numbers; found float8, which 0\.weight_scale multiply"):
        fill(network(), quantised | {"0.weight_scale": torch.ones(1)}, ("0.weight_scale",))


def test_tensors_without_numbers_are_refused() -> None:
    for state in (
        {n: t.to("meta") for n, t in network().state_dict().items()},
        {"0.weight": torch.ones(4, 3).to_sparse()},
    ):
        with pytest.raises(InputError, match=r"the weights of this network: .*found what it cannot take: .*0\.weight"):
            fill(network(), state)


def test_a_torch_average_of_a_model_is_read_without_its_count() -> None:
    source, target = network(), network()
    average = torch.optim.swa_utils.AveragedModel(source)
    assert fill(target, state_of(average.state_dict())).missing == []
    assert torch.equal(first_weight(target), first_weight(source))
    assert state_of({"n_averaged": torch.ones(1), "x": torch.ones(1)}).keys() == {"n_averaged", "x"}


def test_weights_behind_one_beginning_are_the_networks_and_of_two_the_study_says_which() -> None:
    source, target = network(), network()
    state = {f"net.trunk.{name}": tensor for name, tensor in source.state_dict().items()}
    lightning = {"state_dict": state | {"loss.queue": torch.ones(2)}, "epoch": 3}
    found = fill(target, state_of(lightning), ("loss.",))
    assert (found.missing, found.unused) == ([], ["loss.queue"])
    assert torch.equal(first_weight(target), first_weight(source))
    with pytest.raises(InputError, match=r"weights that it does not have: loss\.queue\."):
        fill(target, state_of(lightning))
    both = state | {name.replace("net.", "old."): tensor for name, tensor in state.items()}
    with pytest.raises(
        InputError, match=r"all of them under each of net\.trunk\., old\.trunk\.\. .*`inside` says where"
    ):
        fill(target, both)
    with pytest.raises(InputError, match=r"weights that it does not have: net\.trunk\.0"):
        fill(target, dict(list(state.items())[1:]))


@pytest.mark.parametrize("word", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
@pytest.mark.parametrize("inner", ["source", "target"])
def test_wrappers_of_parts_of_a_network_leave_its_weights_its_own(word: str, inner: str) -> None:
    source, target = nn.Sequential(network(), nn.Linear(4, 2)), nn.Sequential(network(), nn.Linear(4, 2))
    wrapped = source if inner == "source" else target
    wrapped[0] = nn.ModuleDict({word: wrapped[0]})
    assert fill(target, state_of(source.state_dict())).missing == []
    for one, two in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_file_of_a_part_of_the_network_is_read_into_it() -> None:
    source, backbone = network(), network()
    target = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(4, 2)})
    assert fill(target, source.state_dict()).missing == ["head.weight", "head.bias"]
    assert torch.equal(first_weight(backbone), first_weight(source))
    with pytest.raises(InputError, match=r"weights that it does not have: 0\.weight"):
        fill(nn.ModuleDict({"one": network(), "two": network()}), source.state_dict())


def old_names() -> dict[str, tuple[nn.Module, nn.Module, dict[str, str]]]:
    """Networks, others like them, and beginnings of names of today with those of an older file."""
    weight_norm = nn.utils.parametrizations.weight_norm
    return {
        "weight_norm": (
            nn.Sequential(weight_norm(nn.Linear(3, 2))),
            nn.Sequential(weight_norm(nn.Linear(3, 2))),
            {"0.parametrizations.weight.original0": "0.weight_g", "0.parametrizations.weight.original1": "0.weight_v"},
        ),
        "vision transformer": (MLPBlock(3, 4, 0.0), MLPBlock(3, 4, 0.0), {"0.": "linear_1.", "3.": "linear_2."}),
        "frozen": (network(), nn.Sequential(nn.Linear(3, 4), FrozenBatchNorm2d(4)), {}),
        "densenet": (
            _DenseBlock(1, 4, 2, 2, 0.0),
            _DenseBlock(1, 4, 2, 2, 0.0),
            {f"denselayer1.{kind}{n}.": f"denselayer1.{kind}.{n}." for kind in ("norm", "conv") for n in (1, 2)},
        ),
    }


@pytest.mark.parametrize("kind", old_names())
def test_names_and_layouts_of_older_files_are_read_as_their_library_reads_them(kind: str) -> None:
    source, target, names = old_names()[kind]
    state = source.state_dict()
    for new, old in names.items():
        state = {f"{old}{n.removeprefix(new)}" if n.startswith(new) else n: t for n, t in state.items()}
    found = fill(target, state_of({"state_dict": state}))
    assert (found.missing, found.unused) == ([], [])
    own = source.state_dict()
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, own[name]), name


def test_lazy_layers_take_their_sizes_from_the_file() -> None:
    source, target = nn.Linear(3, 2), nn.LazyLinear(2)
    assert fill(target, source.state_dict()).missing == []
    assert torch.equal(target.state_dict()["weight"], source.weight)


class Tied(nn.Module):
    """Two layers that are one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_tensors_that_are_one_need_one_name_as_save_model_writes_them(tmp_path: Path) -> None:
    source, target = Tied(), Tied()
    save_model(source, str(tmp_path / "w.safetensors"))
    state = read(tmp_path / "w.safetensors")
    assert len(state) == 3
    assert fill(target, state).missing == []
    assert torch.equal(target.second.weight, source.first.weight)


class Wrapping(nn.Module):
    """Its own names begin as those that DistributedDataParallel writes."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 4)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_network_that_is_a_wrapper_itself_keeps_its_names(prefix: str) -> None:
    source, target = Wrapping(), Wrapping()
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    assert fill(target, state_of(state)).missing == []
    assert torch.equal(target.module.weight, source.module.weight)
