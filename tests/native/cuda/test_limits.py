# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Indices past 2^31: exact where a kernel takes them, refused where it does not."""

import mmap
from dataclasses import replace

import pytest
import torch

from sr_kernels import reference
from sr_kernels.backends import cuda_plan, registry
from sr_kernels.backends.base import BackendError, ConvArgs, DenseBlockArgs, dense_strides
from tests import samples
from tests.closeness import assert_as_close
from tests.native.cuda.test_emulated import arguments, layer

FAR = 1 << 31  # elements
NORESERVE = 0x4000  # MAP_NORESERVE, which Python's mmap does not name
KERNELS = {
    "conv2d_sm80/32x16": layer(12, 24, 4, 5, activation="relu", residuals=(1.0,)),
    "conv2d_sm80/8": layer(24, 8, 4, 5, shuffle=2, base="bilinear", factor=2),
    "conv2d_sm80/32": layer(3, 24, 4, 5),  # gathered
    "conv2d_tail": layer(24, 3, 4, 5, base="same"),
    "conv2d_sm90/staged": layer(16, 40, 4, 5, residuals=(1.0,)),
    "conv2d_sm90/staged_wide": layer(72, 40, 4, 5, residuals=(1.0,)),
    "conv2d_sm90/resident": layer(16, 40, 4, 5, activation="gelu", residuals=(1.0,)),
    "conv2d_sm90/streamed": layer(72, 36, 4, 5, shuffle=2, base="bilinear", factor=2),
    "conv2d_sm90/stacked": layer(16, 12, 4, 5, shuffle=2, base="nearest", factor=2),
    "conv2d_sm90/stacked_wide": layer(72, 24, 4, 5, residuals=(1.0,)),
}


def test_every_special_kernel_is_among_them(hopper):
    assert {kernel.name for kernel in cuda_plan.kernels() if kernel.special} <= KERNELS.keys()


def far(x, picture, row):
    """x's values, pictures and rows that many elements apart, in memory that is reserved and hardly taken."""
    c = x.shape[1]
    strides = picture, 1, row, c if c < 8 else c + -c % 8
    size = sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True)) + 1
    return reserved(size, x.dtype).as_strided(x.shape, strides).copy_(x)


def reserved(size, dtype):
    """Memory that is taken page by page where it is written to."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    return torch.frombuffer(mmap.mmap(-1, size * dtype.itemsize, flags), dtype=dtype)


@pytest.mark.parametrize("pitch", ["rows", "pictures"])
@pytest.mark.parametrize("name", KERNELS)
def test_offsets_are_exact(hopper, name, pitch):
    sample = KERNELS[name]
    if pitch == "pictures":
        sample = replace(sample, shape=(2, *sample.shape[1:]))
    a, plain = arguments(sample, torch.float16)
    # the last rows lie beyond, of a shuffled result or another one
    row, picture = (FAR // (2 * a.pixel_shuffle), 0) if pitch == "rows" else (1024, FAR + 64)
    a.input, a.residuals = far(a.input, picture, row), [(far(r, picture, row), f) for r, f in a.residuals]
    a.base = None if a.base is None else far(a.base, picture, row)
    y = far(torch.full(a.output_shape(), torch.nan, dtype=torch.float16), picture, row)
    assert sum((n - 1) * s for n, s in zip(y.shape, y.stride(), strict=True)) > FAR
    plan = cuda_plan.ConvPlan(a, y, [k.name for k in cuda_plan.kernels() if k.name != name])
    assert plan.name == f"cuda/{name}"
    plan.run(a, y)
    exact = reference.conv2d(**samples.convert(plain, torch.float64))
    assert_as_close(y.clone(), reference.conv2d(**plain), exact)


COUNT = (
    FAR + (1 << 27) + 3
)  # elements of ops that go through them in order; the last ones are no whole vector
STEP = 256 << 16  # indices from one to the next of a thread


def parts(vector):
    """What the first block of threads computes of COUNT elements: a run of each STEP vectors, then those that
    make none."""
    whole = COUNT // vector
    runs = [slice(i * vector, min(i + 256, whole) * vector) for i in range(0, whole, STEP)]
    assert runs[-1].start >= FAR
    return [*runs, slice(whole * vector, COUNT)] if COUNT % vector else runs


def filled(dtype, chosen, offset, random):
    x = reserved(offset + COUNT + 64, dtype)[offset:]
    for part in chosen:
        size = (part.stop - part.start,)
        x[part] = (
            torch.randn(size, generator=random).to(dtype)
            if dtype.is_floating_point
            else torch.randint(0, 256, size, generator=random, dtype=torch.int32).to(dtype)
        )
    return x


def poisoned(dtype, chosen, offset):
    """Those elements, and 64 behind each run of them."""
    y = reserved(offset + COUNT + 64, dtype)[offset:]
    for part in chosen:
        y[part.start : part.stop + 64] = torch.nan if dtype.is_floating_point else 77
    return y


def assert_untouched_behind(y, chosen):
    for part in chosen:
        behind = y[part.stop : part.stop + 64]
        assert bool((behind.isnan() if y.is_floating_point() else behind == 77).all())


@pytest.fixture
def first_block(monkeypatch):
    monkeypatch.setenv("SRK_EMULATE_BLOCK", "0")


@pytest.mark.usefixtures("first_block")
@pytest.mark.parametrize("offset", [0, 1], ids=["vectors", "elements"])
@pytest.mark.parametrize("dtype", cuda_plan.DTYPES, ids=str)
def test_a_sum_of_more_elements(extension, dtype, offset):
    chosen, random = parts(1 if offset else 16 // dtype.itemsize), torch.Generator().manual_seed(0)
    x, r1, r2 = (filled(dtype, chosen, offset, random) for _ in range(3))
    y = poisoned(dtype, chosen, offset)
    at = [t.data_ptr() for t in (x, r1, r2, y)]
    extension.add(0, 0, *at, COUNT, 0.5, -1.5, 2.0, cuda_plan.DTYPES[dtype])
    for part in chosen:
        eager, exact = (
            0.5 * x[part].to(d) - 1.5 * r1[part].to(d) + 2.0 * r2[part].to(d) for d in (dtype, torch.float64)
        )
        assert_as_close(y[part], eager, exact)
    assert_untouched_behind(y, chosen)


@pytest.mark.usefixtures("first_block")
@pytest.mark.parametrize("offset", [0, 1], ids=["vectors", "elements"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
def test_pictures_of_more_elements(extension, dtype, offset):
    chosen = parts(1 if offset else 4)
    x = filled(dtype, chosen, offset, torch.Generator().manual_seed(0))
    floats, back = poisoned(torch.float32, chosen, offset), poisoned(dtype, chosen, offset)
    bits = 8 * dtype.itemsize
    extension.image_to_float(0, 0, x.data_ptr(), floats.data_ptr(), COUNT, bits)
    extension.float_to_image(0, 0, floats.data_ptr(), back.data_ptr(), COUNT, bits)
    for part in chosen:
        assert torch.equal(floats[part], x[part].float() / torch.iinfo(dtype).max)
        assert torch.equal(back[part], x[part])
    assert_untouched_behind(floats, chosen)
    assert_untouched_behind(back, chosen)


@pytest.mark.parametrize("offset", [0, 1], ids=["pieces", "elements"])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("inverse", [False, True])
def test_offsets_of_shuffles_are_exact(extension, offset, channels_last, inverse):
    """Pictures, rows and, where these are contiguous, channels: each lies beyond."""
    n, c, h, w, s = 2, 8 if channels_last else 2, 2, 8, 2

    def memory(values):
        picture = 8 * FAR + 64
        of = (picture, 1, FAR, values.shape[1]) if channels_last else (picture, FAR, values.shape[3], 1)
        size = sum((n - 1) * step for n, step in zip(values.shape, of, strict=True)) + 1
        return reserved(size + offset, values.dtype)[offset:].as_strided(values.shape, of).copy_(values)

    given = torch.randn(n, c * s * s, h, w, generator=torch.Generator().manual_seed(0)).half()
    expected = reference.pixel_shuffle(given, s)
    nan = torch.tensor(torch.nan, dtype=given.dtype)
    coarse = memory(nan.expand_as(given) if inverse else given)
    fine = memory(expected if inverse else nan.expand_as(expected))
    at = coarse.data_ptr(), fine.data_ptr()
    in_pieces = extension.shuffle(0, 0, *at, (n, h, w, c), coarse.stride(), fine.stride(), s, 2, inverse)
    assert in_pieces == (offset == 0)
    assert torch.equal(coarse, given)
    assert torch.equal(fine, expected)


def meta(shape, layout=torch.channels_last):
    return torch.empty_strided(shape, dense_strides(shape, layout), dtype=torch.float16, device="meta")


def convolution(shape, channels, k=3, **fields):
    weight = meta((channels, shape[1], k, k))
    a = ConvArgs(meta(shape), weight, padding=(k // 2,) * 4, **fields)
    if a.base_mode != "none":
        a.base = meta((shape[0], channels // a.pixel_shuffle**2, *shape[2:]))
    return a


def refusals(shape, channels, **fields):
    """Of a layer of the meta device: why each kernel does not take it."""
    a = convolution(shape, channels, **fields)
    y = meta(a.output_shape())
    [phase] = cuda_plan._parts(a).values()
    step, found = cuda_plan._step(a, y, phase, None), {}
    for kernel in cuda_plan.kernels():
        step.kernel = kernel.index
        found[kernel.name] = cuda_plan.native.conv2d_refusal(step)
    return found


@pytest.mark.parametrize(
    ("shape", "channels", "fields", "taken_otherwise", "words"),
    [
        ((1, 16, 9, 1 << 27), 3, {}, (1, 16, 9, 1 << 26), {"conv2d_tail": "strides are too large"}),
        (
            (1, 16, 9, 1 << 24), 128, {"pixel_shuffle": 2}, (1, 16, 9, 1 << 20),
            {"conv2d_sm90/staged": "32-bit", "conv2d_sm90/resident": "32-bit"},
        ),
        (
            (1, 16, 9, 1 << 29), 12, {"pixel_shuffle": 2, "base_mode": "bilinear"}, (1, 16, 9, 1 << 20),
            {"conv2d_sm90/stacked": "32-bit"},
        ),
        (
            (1, 16, 9, 1 << 28), 36, {"pixel_shuffle": 1, "base_mode": "bilinear"}, (1, 16, 9, 1 << 20),
            {"conv2d_sm90/resident": "32-bit"},
        ),
        (
            (1 << 25, 16, 256, 256), 64, {}, (1 << 15, 16, 256, 256),
            {"conv2d_sm80/64": "too many tiles", "conv2d_sm90/staged": "32-bit"},
        ),
        ((1 << 25, 16, 256, 256), 3, {}, (1 << 15, 16, 256, 256), {"conv2d_tail": "too many tiles"}),
        ((1, 16, 9, 1 << 30), 64, {}, (1, 16, 9, 1 << 20), {"conv2d_sm80/64": "extent"}),
    ],
)  # fmt: skip
def test_what_32_bits_do_not_hold_is_refused(hopper, shape, channels, fields, taken_otherwise, words):
    """By shapes alone: a smaller one is taken."""
    found, smaller = refusals(shape, channels, **fields), refusals(taken_otherwise, channels, **fields)
    for name, word in words.items():
        assert word in found[name]
        assert smaller[name] == ""


def block(n, h, channels=16):
    weights = [meta((16, channels + 16 * i, 3, 3)) for i in range(2)] + [
        meta((channels, channels + 32, 3, 3))
    ]
    return DenseBlockArgs(meta((n, channels, h, 256)), weights, [None] * 3)


LONG = FAR // 16
REFUSED = {
    "tiles": ("conv2d", convolution((1 << 25, 16, 256, 256), 64), "too many tiles"),
    "tiles of phases": ("conv2d", convolution((1 << 25, 16, 256, 256), 8, upsample=3), "too many tiles"),
    "tiles, three outputs": ("conv2d", convolution((1 << 25, 16, 256, 256), 3), "too many tiles"),
    "width": ("conv2d", convolution((1, 16, 9, 1 << 30), 64), "an extent is out of range"),
    "enlarged width": ("conv2d", convolution((1, 16, 9, 1 << 29), 64, upsample=2), "an extent is out"),
    "outputs": ("conv2d", convolution((1, 16, 9, 9), 1 << 24), "too many outputs"),
    "inputs": ("conv2d", convolution((1, 1 << 27, 3, 3), 8), "an extent is out of range"),
    "tiles of a block": ("dense_block", block(1 << 25, 256), "too many tiles"),
    "rows of a block": ("dense_block", block(1, 1 << 30), "an extent is out of range"),
    "row": ("pixel_shuffle", (meta((1, 32, 1, LONG)), 2), "a row has 2^31 elements"),
    "row of planes": ("pixel_shuffle", (meta((1, 4, 1, FAR // 2), torch.contiguous_format), 2), "a row has"),
    "rows": ("pixel_shuffle", (meta((1, 4, FAR // 2, 1)), 2), "2^31 rows"),
    "row back": ("pixel_unshuffle", (meta((1, 8, 2, 2 * LONG)), 2), "a row has 2^31 elements"),
}
TAKEN = {
    "conv2d": convolution((1 << 15, 16, 256, 256), 64),
    "dense_block": block(1 << 15, 256),
    "pixel_shuffle": (meta((1, 32, 1, LONG - 1)), 2),
    "pixel_unshuffle": (meta((1, 8, 2, 2 * LONG - 2)), 2),
}


@pytest.fixture
def on_meta(hopper, monkeypatch):
    """Tensors of the meta device as those of GPUs: the backend first, then PyTorch."""
    monkeypatch.setattr(registry, "_ORDER", {"meta": ("cuda", "torch")})
    monkeypatch.setitem(registry._backends, "cuda", hopper)
    monkeypatch.setattr(registry, "_unavailable", {"cuda": []})
    monkeypatch.setattr(registry, "_candidates", {})


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(("op", "args", "words"), REFUSED.values(), ids=REFUSED)
def test_what_no_kernel_takes_is_known_before_it_runs(op, args, words):
    if op != "dense_block":  # PyTorch has it in pieces, each of which is asked for
        assert registry.select(op, "meta", args).name == "torch"
    assert registry.willing(op, "meta", args) is not registry.find("cuda")
    with pytest.raises(BackendError, match=words.replace("^", r"\^")):
        registry.select(op, "meta", args, "cuda")


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("op", TAKEN)
def test_what_is_smaller_is_taken(op):
    assert registry.select(op, "meta", TAKEN[op], "cuda").name == "cuda"


def test_a_shuffle_of_too_long_a_row_raises(hopper, extension):
    with pytest.raises(RuntimeError, match=rf"pixel_shuffle of \(1, 32, 1, {LONG}\), before its launch"):
        extension.shuffle(
            0, 0, 2, 2, (1, 1, LONG, 8), (1, 1, 1, 32), (1, 1, 1, 8), 2, 2, False
        )  # addresses that nobody reads
