# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Bad checkpoints: an error that says what was found, and nothing is executed or allocated."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sr_kernels import models
from sr_kernels.models import checkpoint
from tests.models import plain

Error = models.CheckpointError


@pytest.fixture
def state():
    return dict(plain.build("srvgg x4").state_dict())


def test_an_error_is_a_value_error():
    assert issubclass(Error, ValueError)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        models.load(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="directory"):
        models.load(tmp_path)


def test_wrong_suffix(tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(Error, match=r"'\.onnx'.*\.safetensors"):
        models.load(tmp_path / "w.onnx")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"<!DOCTYPE html><html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"],
)
def test_not_a_checkpoint(suffix, content, tmp_path):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(Error, match=r"is not a (checkpoint|safetensors|readable)"):
        models.load(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [9, 200, 0.5, 0.99])
def test_truncated(suffix, keep, state, tmp_path):
    path = tmp_path / f"w{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(Error):
        models.load(path)


class Trap:
    """Unpickling it would create the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(zipped, state, tmp_path):
    mark = tmp_path / "mark"
    torch.save(
        {"params": state, "extra": Trap(mark)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(Error, match=r"more than weights.*open.*not executed"):
        models.load(tmp_path / "w.pth")
    (tmp_path / "w.ckpt").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(Error):
        models.load(tmp_path / "w.ckpt")
    assert not mark.exists()


def test_whole_pickled_models_are_refused(tmp_path):
    torch.save(nn.Conv2d(3, 3, 3), tmp_path / "w.pth")
    with pytest.raises(Error, match=r"more than weights.*Conv2d.*state_dict"):
        models.load(tmp_path / "w.pth")


def test_torchscript_is_refused(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(nn.Conv2d(3, 3, 3), torch.zeros(1, 3, 8, 8)).save(tmp_path / "w.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("torch.jit.load was called"))
    with pytest.raises(Error, match="TorchScript"):
        models.load(tmp_path / "w.pt")


def test_size_caps(state, tmp_path, monkeypatch):
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    monkeypatch.setattr(checkpoint, "MAX_FILE_BYTES", 100)
    for suffix in (".safetensors", ".pth"):
        with pytest.raises(Error, match="the limit is 100"):
            models.load(tmp_path / f"w{suffix}")


def test_header_cap(tmp_path):
    path = tmp_path / "w.safetensors"
    for header in (checkpoint.MAX_HEADER_BYTES + 1, 2**63):
        with path.open("wb") as file:
            file.write(struct.pack("<Q", header))
            file.truncate(checkpoint.MAX_HEADER_BYTES + 100)  # sparse
        with pytest.raises(Error, match="header"):
            models.load(path)


def test_archives_that_unpack_to_too_much(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\0" * 1_000_000)
    assert (tmp_path / "w.pth").stat().st_size < 10_000
    monkeypatch.setattr(checkpoint, "MAX_FILE_BYTES", 10_000)
    with pytest.raises(Error, match="unpacks to 1000000 bytes"):
        models.load(tmp_path / "w.pth")


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(3), {}, {"epoch": 3}, {"a": {"b": 1}, "c": {"d": 2}}])
def test_no_state_dict_inside(value, tmp_path):
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(Error, match=r"named tensors|no tensors"):
        models.load(tmp_path / "w.pth")


def test_another_architecture_lists_found_and_known():
    with pytest.raises(Error, match=r"2 tensors, fc\.weight, fc\.bias; known are rrdbnet.*srvgg"):
        models.load(nn.ModuleDict({"fc": nn.Linear(3, 3)}).state_dict())


def test_esrgan_plus_is_refused_by_name():
    state = dict(plain.build("rrdbnet x4").state_dict())
    state["body.0.rdb1.conv1x1.weight"] = torch.zeros(8, 16, 1, 1)
    with pytest.raises(Error, match=r"ESRGAN\+"):
        models.load(state)


def test_missing_and_unexpected_keys(state):
    lacking = {k: v for k, v in state.items() if k != "body.3.weight"}
    with pytest.raises(Error, match=r"lacks 'body\.3\.weight'"):
        models.load(lacking)
    with pytest.raises(Error, match=r"has 'head\.weight'"):
        models.load({**state, "head.weight": torch.zeros(1)})


def test_gaps_between_blocks():
    state = plain.build("rrdbnet x4").state_dict()
    with pytest.raises(Error, match="gap"):
        models.load({k.replace("body.1.", "body.1000000."): v for k, v in state.items()})
    with pytest.raises(Error, match="layers are missing"):
        srvgg = plain.build("srvgg x4").state_dict()
        models.load({k.replace("body.8.", "body.80000000."): v for k, v in srvgg.items()})


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda t: t.to(torch.int32), "dtype torch.int32"),
        (lambda t: t.to_sparse(), "dense"),
        (lambda t: t.to("meta"), "dense"),
        (lambda t: t[:, :5], "shape"),
        (lambda t: t.flatten(), "shape"),
        (lambda t: torch.full_like(t, float("nan")), "NaN"),
        (lambda t: t / 0.0, "NaN or infinite"),
    ],
)
def test_tensors_that_are_no_weights(spoil, match, state):
    state["body.2.weight"] = spoil(state["body.2.weight"])
    with pytest.raises(Error, match=rf"body\.2\.weight.*{match}"):
        models.load(state)


def test_tensors_beyond_their_storage(state):
    tensor = state["body.2.weight"].clone()
    state["body.2.weight"] = tensor
    tensor.untyped_storage().resize_(100)
    with pytest.raises(Error, match="beyond its storage"):
        models.load(state)


def test_expanded_tensors_are_refused_before_anything_is_allocated(tmp_path, monkeypatch):
    """A few numbers repeated by strides of zero: the file is small, the model would have gigabytes."""
    width = 4096
    state = {
        "body.0.weight": torch.zeros(1).expand(width, 3, 3, 3),
        "body.0.bias": torch.zeros(1).expand(width),
        "body.2.weight": torch.zeros(1).expand(12, width, 3, 3),
        "body.2.bias": torch.zeros(1).expand(12),
    }
    torch.save(state, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").stat().st_size < 5000
    monkeypatch.setattr(torch, "isfinite", lambda _: pytest.fail("a value was looked at"))
    with pytest.raises(Error, match=r"body\.0\.weight.*repeats its memory"):
        models.load(tmp_path / "w.pth", activation="relu")


def test_overlapping_tensors_are_refused(state):
    weight = state["body.2.weight"]
    state["body.2.weight"] = torch.zeros(weight.numel()).as_strided(weight.shape, (1, 1, 1, 1))
    with pytest.raises(Error, match=r"body\.2\.weight.*repeats its memory"):
        models.load(state)


def test_tensors_that_are_the_same_memory_are_refused(state):
    state["body.4.weight"] = state["body.2.weight"]
    with pytest.raises(Error, match="same memory"):
        models.load(state)
    flat = torch.cat([t.flatten() for t in plain.build("srvgg x4").state_dict().values()])
    parts = flat.split([t.numel() for t in state.values()])  # one storage, nothing twice
    models.load({k: part.view(t.shape) for (k, t), part in zip(state.items(), parts, strict=True)})


def test_outputs_that_are_no_square(state):
    state["body.8.weight"] = state["body.8.weight"][:40]
    with pytest.raises(Error, match="40 outputs"):
        models.load(state)


def test_checks_come_before_the_model(state, monkeypatch):
    built = []
    real = models.SRVGGNetCompact.__init__

    def watch(self, **sizes):
        real(self, **sizes)
        built.append(next(self.parameters()).device.type)

    monkeypatch.setattr(models.SRVGGNetCompact, "__init__", watch)
    state["body.2.weight"] = state["body.2.weight"][:, :5]
    with pytest.raises(Error):
        models.load(state)
    assert built == ["meta"]


def test_a_scale_that_the_weights_do_not_have(state):
    assert models.load(state, scale=4).scale == 4
    with pytest.raises(Error, match=r"scale=2 was asked, the weights have scale=4"):
        models.load(state, scale=2)
    with pytest.raises(Error, match="num_feat"):
        models.load(state, num_feat=64)


def test_what_must_be_asked():
    with pytest.raises(Error, match=r"fsrcnn.*give scale="):
        models.load(plain.build("fsrcnn x3").state_dict())
    bare = plain.build("srvgg x3 relu").state_dict()
    with pytest.raises(Error, match="activation='relu' or 'leaky_relu'"):
        models.load(bare)
    assert models.load(bare, activation="relu").scale == 3
    with pytest.raises(ValueError, match="activation"):
        models.load(bare, activation="swish")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: {"fc.weight": torch.zeros(3, 3)},
        lambda s: {"epoch": 3},
        lambda s: {k: v for k, v in s.items() if k != "body.3.weight"},
        lambda s: {**s, "body.2.weight": s["body.2.weight"][:, :5]},
        lambda s: {**s, "body.2.weight": s["body.2.weight"] * float("nan")},
    ],
)
def test_every_error_names_the_file_once(spoil, state, tmp_path):
    path = tmp_path / "some weights.pth"
    torch.save(spoil(state), path)
    for given in (path, str(path)):
        with pytest.raises(Error) as caught:
            models.load(given)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).count("some weights.pth") == 1
    path.write_bytes(b"<html>")
    for read in (models.load, models.read_checkpoint):
        with pytest.raises(Error) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: this is not a checkpoint")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("res_scale", "much"),
        ("res_scale", "nan"),
        ("image_range", "0"),
        ("rgb_mean", "0.5"),
        ("rgb_mean", "a,b,c"),
    ],
)
def test_values_that_no_argument_takes(option, value, tmp_path):
    state = plain.build("edsr x2").state_dict()
    with pytest.raises(Error, match=option):
        models.load(state, **{option: value})
    save_file(state, tmp_path / "w.safetensors", metadata={option: value})
    with pytest.raises(Error, match=rf"w\.safetensors: EDSR: {option}"):
        models.load(tmp_path / "w.safetensors")


def test_wrong_arguments(state):
    with pytest.raises(TypeError, match=r"srvgg has no argument 'blocks'"):
        models.load(state, blocks=3)
    with pytest.raises(TypeError, match="source is int"):
        models.load(5)
