# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every public layout loads: foreign keys, wrappers, prefixes and file formats; sizes come from shapes."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file

from sr_kernels import models
from sr_kernels.models.detect import detect
from tests.models import plain

# Arguments that no weight tells.
OPEN = {"fsrcnn": ("scale",), "edsr": ("res_scale",)}


def extras(case):
    name, sizes = plain.SMALL[case]
    keys = [*OPEN.get(name, ()), *(["activation"] if sizes.get("activation", "prelu") != "prelu" else [])]
    return {key: sizes[key] for key in keys if key in sizes}


def renamed(state, *rules):
    """Each key under the first rule that matches from its start."""
    result = {}
    for key, tensor in state.items():
        for pattern, replacement in rules:
            new, hits = re.subn(rf"^{pattern}\.(?=weight|bias)", f"{replacement}.", key)
            if hits:
                key = new
                break
        result[key] = tensor
    return result


def esrgan(state):
    return renamed(
        state,
        (r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"RRDB_trunk.\1.RDB\2.conv\3"),
        (r"conv_body", "trunk_conv"),
        (r"conv_up(\d)", r"upconv\1"),
        (r"conv_hr", "HRconv"),
    )


def old_esrgan(state):
    ups = sum(bool(re.fullmatch(r"conv_up\d\.weight", key)) for key in state)
    blocks = sum(bool(re.fullmatch(r"body\.\d+\.rdb1\.conv1\.weight", key)) for key in state)
    return renamed(
        state,
        (r"conv_first", "model.0"),
        (r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0"),
        (r"conv_body", f"model.1.sub.{blocks}"),
        *((rf"conv_up{i}", f"model.{3 * i}") for i in range(1, ups + 1)),
        (r"conv_hr", f"model.{3 * ups + 2}"),
        (r"conv_last", f"model.{3 * ups + 4}"),
    )


def original_edsr(state, image_range=255.0):
    blocks = sum(bool(re.fullmatch(r"body\.\d+\.conv1\.weight", key)) for key in state)
    state = renamed(
        state,
        (r"conv_first", "head.0"),
        (r"body\.(\d+)\.conv1", r"body.\1.body.0"),
        (r"body\.(\d+)\.conv2", r"body.\1.body.2"),
        (r"conv_after_body", f"body.{blocks}"),
        (r"upsample\.(\d)", r"tail.0.\1"),
        (r"conv_last", "tail.1"),
    )
    mean = torch.tensor((0.4488, 0.4371, 0.4040))
    shift = {
        f"{name}.{leaf}": value
        for name, sign in (("sub_mean", -1), ("add_mean", 1))
        for leaf, value in (("weight", torch.eye(3).view(3, 3, 1, 1)), ("bias", sign * image_range * mean))
    }
    return {**shift, **state}


def same_picture(model, case):
    reference = plain.build(case)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, model.in_channels, 8, 12, generator=generator)
    with torch.no_grad():
        ours, theirs = model.double()(x.double()), reference.double()(x.double())
    # a mean read back from a stored shift is rounded to six decimals
    return (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


@pytest.mark.parametrize("case", plain.SMALL)
def test_sizes_come_from_shapes(case):
    name, sizes = plain.SMALL[case]
    model = models.load(plain.build(case).state_dict(), **extras(case))
    assert model.scale == sizes["scale"]
    assert not model.training
    assert same_picture(model, case)
    found = detect(plain.build(case).state_dict())
    assert found.architecture == name
    wanted = {k: v for k, v in sizes.items() if k not in extras(case) and k not in OPEN.get(name, ())}
    assert {k: found.sizes[k] for k in wanted} == wanted


@pytest.mark.parametrize(
    ("case", "foreign", "layout"),
    [
        ("rrdbnet x4", esrgan, "ESRGAN"),
        ("rrdbnet x2 old", esrgan, "ESRGAN"),
        ("rrdbnet x4", old_esrgan, "old ESRGAN"),
        ("rrdbnet x2 old", old_esrgan, "old ESRGAN"),
        ("rrdbnet x8", old_esrgan, "old ESRGAN"),
        ("edsr x2", original_edsr, "original EDSR"),
        ("edsr x3", original_edsr, "original EDSR"),
        ("edsr x4", original_edsr, "original EDSR"),
    ],
)
def test_foreign_layouts(case, foreign, layout):
    canonical = plain.build(case).state_dict()
    state = foreign(canonical)
    assert not set(state) & set(canonical) - {"conv_first.weight", "conv_first.bias"} or layout == "ESRGAN"
    assert detect(state).layout == layout
    model = models.load(state, **extras(case))
    assert same_picture(model, case)
    assert set(model.state_dict()) == set(canonical)


def test_the_original_edsr_keeps_its_own_mean_and_range():
    case = "edsr x4"
    state = original_edsr(plain.build(case).state_dict())
    state["add_mean.bias"] = 255 * torch.tensor((0.5, 0.25, 0.125))
    state["sub_mean.bias"] = -state["add_mean.bias"]
    model = models.load(state, **extras(case))
    assert model.mean.tolist() == [0.5, 0.25, 0.125]
    assert model.image_range == 255
    unit = original_edsr(plain.build(case).state_dict(), image_range=1.0)
    assert models.load(unit, **extras(case)).image_range == 1
    state["sub_mean.weight"] = 2 * state["sub_mean.weight"]
    with pytest.raises(models.CheckpointError, match=r"sub_mean\.weight"):
        models.load(state, **extras(case))


def test_a_shift_of_zero_is_a_mean_of_zero():
    state = original_edsr(plain.build("edsr x4").state_dict())
    for name in ("sub_mean", "add_mean"):
        state[f"{name}.bias"] = torch.zeros(3)
    assert models.load(state).mean.tolist() == [0, 0, 0]
    assert models.load(state, image_range=1.0).image_range == 1


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("sub_mean.bias", torch.full((3,), float("nan")), "NaN"),
        ("add_mean.bias", torch.full((3,), float("inf")), "infinite"),
        ("sub_mean.bias", torch.zeros(1), r"\(1,\), not \(3,\)"),
        ("add_mean.bias", torch.zeros(3), "opposite"),
        ("add_mean.bias", None, "opposite.*add_mean None"),
        ("sub_mean.bias", None, "opposite.*sub_mean None"),
    ],
)
def test_shifts_that_are_none(key, value, match):
    state = original_edsr(plain.build("edsr x4").state_dict())
    state.pop(key)
    if value is not None:
        state[key] = value
    with pytest.raises(models.CheckpointError, match=match):
        models.load(state)


WRAPPED = {
    "bare": lambda s: s,
    "params_ema before params": lambda s: {"params": {k: v + 1 for k, v in s.items()}, "params_ema": s},
    "params-ema": lambda s: {"params-ema": s, "iter": 5},
    "model_state_dict": lambda s: {"epoch": 3, "model_state_dict": s, "optimizer": {"lr": 0.1}},
    "state_dict in model": lambda s: {"model": {"state_dict": s}},
    "net": lambda s: {"net": s},
    "a lone nested dict": lambda s: {"weights": s, "step": 7},
    "DataParallel": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "a GAN's generator": lambda s: {
        **{f"netG.{k}": v for k, v in s.items()},
        "netD.conv.weight": torch.zeros(1, 3, 3, 3),
    },
    "an empty wrapper first": lambda s: {"params": s, "model_state_dict": {}},
    "an averaged model": lambda s: {
        "n_averaged": torch.tensor(5),
        **{f"module.{k}": v for k, v in s.items()},
    },
    "generator in module": lambda s: {
        "state_dict": {f"module.generator.{k}": v for k, v in s.items()},
    },
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_wrappers_and_prefixes(wrap, suffix, tmp_path):
    case = "srvgg x2"
    torch.save(WRAPPED[wrap](plain.build(case).state_dict()), tmp_path / f"w{suffix}")
    assert same_picture(models.load(tmp_path / f"w{suffix}"), case)


def test_torchs_averaged_model():
    averaged = torch.optim.swa_utils.AveragedModel(plain.build("srvgg x2"))
    assert same_picture(models.load(averaged.state_dict()), "srvgg x2")


@pytest.mark.parametrize("case", ["srvgg x4", "rrdbnet x2", "espcn x3"])
def test_safetensors(case, tmp_path):
    save_file(plain.build(case).state_dict(), tmp_path / "w.safetensors")
    assert same_picture(models.load(str(tmp_path / "w.safetensors")), case)


def test_legacy_files_without_zip(tmp_path):
    state = plain.build("srvgg x2").state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same_picture(models.load(tmp_path / "old.pth"), "srvgg x2")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_dtypes_become_float32(dtype):
    state = {k: v.to(dtype) for k, v in plain.build("edsr x2").state_dict().items()}
    model = models.load(state)
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[key].float())


def test_metadata_tells_what_weights_do_not(tmp_path):
    state = plain.build("fsrcnn x2 small").state_dict()
    metadata = {"architecture": "fsrcnn", "scale": "2"}
    save_file(state, tmp_path / "w.safetensors", metadata=metadata)
    model = models.load(tmp_path / "w.safetensors")
    assert model.scale == 2
    assert same_picture(model, "fsrcnn x2 small")
    assert models.load(tmp_path / "w.safetensors", scale=3).scale == 3
    save_file(state, tmp_path / "w.safetensors", metadata={"architecture": "srvgg"})
    with pytest.raises(models.CheckpointError, match="metadata"):
        models.load(tmp_path / "w.safetensors")


def test_metadata_tells_every_open_argument(tmp_path):
    path = tmp_path / "w.safetensors"
    metadata = {"res_scale": "0.25", "image_range": "1", "rgb_mean": "0.5,0.25,0.125"}
    save_file(plain.build("edsr x2").state_dict(), path, metadata=metadata)
    model = models.load(path)
    assert model.body[0].conv2.scale == 0.25
    assert model.image_range == 1
    assert model.mean.tolist() == [0.5, 0.25, 0.125]
    assert models.load(path, res_scale="0.5", rgb_mean=[0, 0, 0]).body[0].conv2.scale == 0.5
    state = plain.build("srvgg x3 relu").state_dict()
    save_file(state, path, metadata={"activation": "relu"})
    assert same_picture(models.load(path), "srvgg x3 relu")


def test_loading_changes_neither_the_weights_nor_the_random_state():
    state = plain.build("srvgg x2").state_dict()
    before = {k: v.clone() for k, v in state.items()}
    random = torch.get_rng_state()
    model = models.load(state)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(state[k], before[k]) for k in state)


def test_blending_two_files():
    first, second = plain.build("srvgg x2", 1).state_dict(), plain.build("srvgg x2", 2).state_dict()
    blended = models.blend(first, second, 0.25)
    for key in first:
        torch.testing.assert_close(blended[key], 0.25 * first[key] + 0.75 * second[key])
    assert models.load(blended).scale == 2
    with pytest.raises(ValueError, match="weight"):
        models.blend(first, second, 1.5)
    with pytest.raises(models.CheckpointError, match="shape"):
        models.blend(first, {k: v[:1] for k, v in second.items()}, 0.5)
