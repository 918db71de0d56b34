# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""autocast, vmap, torch.func, threads and forked processes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from sr_kernels import ops, reference
from sr_kernels.backends import BackendError, record_kernels, use_backend
from tests import samples


def by_name(sample):
    return sample.name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_takes_the_active_dtype(dtype):
    sample = samples.Conv(activation="prelu", slopes=7, residuals=(0.5,), base="same")
    a = sample.arguments()
    with torch.autocast("cpu", dtype=dtype):
        y = ops.conv2d(**a)
        block = ops.dense_block(**samples.DENSE[6].arguments())
        assert ops.pixel_shuffle(torch.randn(1, 4, 2, 2), 2).dtype == torch.float32
    assert y.dtype == block.dtype == dtype
    assert torch.equal(y, ops.conv2d(**samples.convert(a, dtype)))
    with torch.autocast("cpu", dtype=dtype, enabled=False):
        assert ops.conv2d(**a).dtype == torch.float32


def test_autocast_mixes_as_torch_does():
    x, weight = torch.randn(1, 3, 6, 6), torch.randn(3, 3, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.conv2d(x, weight.bfloat16(), padding=1)
        z = ops.residual_add(y, x, scale=0.5)
        assert y.dtype == torch.bfloat16
        assert z.dtype == (y * 0.5 + x).dtype == torch.float32
        exact = ops.conv2d(x.double(), weight.double())
    assert exact.dtype == torch.float64
    with pytest.raises(TypeError, match="bfloat16"):
        ops.residual_add(y, x)


@pytest.mark.parametrize("stride", [2, (1, 2)], ids=str)
def test_autocast_of_transposed_convolution(stride):
    x, weight, slopes = torch.randn(1, 3, 6, 6), torch.randn(3, 2, 4, 4), torch.rand(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = {"stride": stride, "activation": "prelu", "prelu_weight": slopes}
        y = ops.conv_transpose2d(x, weight.bfloat16(), **a)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, ops.conv_transpose2d(x.bfloat16(), weight, **a))


def test_autocast_reaches_the_gradients():
    x, weight = torch.randn(1, 3, 6, 6), torch.randn(4, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.conv2d(x, weight, activation="silu")
    y.float().square().sum().backward()
    assert weight.grad.dtype == torch.float32
    exact = weight.detach().double().requires_grad_()
    ops.conv2d(x.double(), exact, activation="silu").square().sum().backward()
    assert (
        torch.nn.functional.cosine_similarity(weight.grad.double().flatten(), exact.grad.flatten(), 0) > 0.999
    )


def looped(function, in_dims, arguments):
    size = next(a.shape[d] for a, d in zip(arguments, in_dims, strict=True) if d is not None)
    pick = [
        [a.select(d, i) if d is not None else a for a, d in zip(arguments, in_dims, strict=True)]
        for i in range(size)
    ]
    return torch.stack([function(*p) for p in pick])


@pytest.mark.parametrize(
    ("function", "in_dims", "shapes"),
    [
        (
            lambda x, w: ops.conv2d(x, w, padding=1, activation="relu"),
            (0, None),
            ((3, 2, 4, 5, 6), (8, 4, 3, 3)),
        ),
        (lambda x, w: ops.conv2d(x, w, padding=1), (2, None), ((2, 4, 3, 5, 6), (8, 4, 3, 3))),
        (lambda x, w: ops.conv2d(x, w, padding=1), (None, 1), ((2, 4, 5, 6), (8, 3, 4, 3, 3))),
        (lambda x, w: ops.conv2d(x, w, padding=1), (1, 0), ((2, 3, 4, 5, 6), (3, 8, 4, 3, 3))),
        (
            lambda x, w, r: ops.conv2d(x, w, padding=1, residual=[(r, 0.5)], base=r),
            (None, None, 0),
            ((2, 4, 5, 6), (4, 4, 3, 3), (3, 2, 4, 5, 6)),
        ),
        (
            lambda x, v, w: ops.dense_block(x, [v, w], [None, None], residual=x),
            (0, None, None),
            ((3, 2, 4, 5, 6), (2, 4, 3, 3), (4, 6, 3, 3)),
        ),
        (
            lambda x, v, w: ops.dense_block(x, [v, w], [None, None]),
            (None, None, 0),
            ((2, 4, 5, 6), (2, 4, 3, 3), (3, 4, 6, 3, 3)),
        ),
        (lambda x: ops.pixel_shuffle(x, 2), (1,), ((2, 3, 4, 5, 6),)),
        (lambda x: ops.pixel_unshuffle(x, 2), (0,), ((3, 2, 4, 8, 6),)),
        (lambda x, y: ops.residual_add(x, [(y, 0.5)]), (0, None), ((3, 2, 4, 5, 6), (2, 4, 5, 6))),
        (lambda x: ops.image_to_float(ops.float_to_image(x)), (0,), ((3, 1, 4, 5, 6),)),
        (lambda x, w: ops.conv_transpose2d(x, w, stride=2), (0, None), ((3, 2, 4, 5, 6), (4, 3, 3, 3))),
    ],
)
def test_vmap(function, in_dims, shapes):
    arguments = [torch.randn(*shape) for shape in shapes]
    mapped = torch.vmap(function, in_dims)(*arguments)
    torch.testing.assert_close(mapped, looped(function, in_dims, arguments))


@pytest.mark.parametrize(
    ("function", "in_dims", "shapes"),
    [
        (lambda x, w: ops.conv2d(x, w, padding=1), (0, None), ((0, 2, 4, 5, 6), (8, 4, 3, 3))),
        (lambda x, w: ops.conv2d(x, w), (None, 1), ((2, 4, 5, 6), (8, 0, 4, 3, 3))),
        (lambda x, y: ops.residual_add(x, y), (None, 0), ((2, 4, 5, 6), (0, 2, 4, 5, 6))),
        (lambda x: ops.pixel_shuffle(x, 2), (1,), ((2, 0, 4, 5, 6),)),
        (ops.float_to_image, (0,), ((0, 1, 4, 5, 6),)),
    ],
)
def test_vmap_over_nothing(function, in_dims, shapes):
    """No results, of the shape and dtype that each would have. (F.conv2d itself forgets the inner batch.)"""
    one = [
        torch.randn(*(size for i, size in enumerate(shape) if i != dim))
        for shape, dim in zip(shapes, in_dims, strict=True)
    ]
    expected = function(*one)
    mapped = torch.vmap(function, in_dims)(*(torch.randn(*shape) for shape in shapes))
    assert mapped.shape == (0, *expected.shape)
    assert mapped.dtype == expected.dtype


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(
    ("function", "plain", "shapes"),
    [
        (
            lambda x, w, b: ops.conv2d(x, w, b, padding=1, activation="relu"),
            lambda x, w, b: F.relu(F.conv2d(x, w, b, padding=1)),
            ((2, 4, 5, 6), (8, 4, 3, 3), (8,)),
        ),
        (
            lambda x, w, b: ops.conv_transpose2d(x, w, b, stride=2),
            lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2),
            ((2, 4, 5, 6), (4, 3, 3, 3), (3,)),
        ),
        (
            lambda x, v, w: ops.dense_block(x, [v, w], [None, None]),
            lambda x, v, w: reference.dense_block(x, [v, w], [None, None]),
            ((2, 4, 5, 6), (2, 4, 3, 3), (4, 6, 3, 3)),
        ),
        (lambda x: ops.pixel_shuffle(x, 2), lambda x: F.pixel_shuffle(x, 2), ((2, 4, 5, 6),)),
        (lambda x: ops.pixel_unshuffle(x, 2), lambda x: F.pixel_unshuffle(x, 2), ((2, 4, 6, 4),)),
        (lambda x, y: ops.residual_add(x, [(y, 0.5)]), lambda x, y: x + 0.5 * y, ((2, 4, 5, 6),) * 2),
    ],
)
def test_forward_mode(function, plain, shapes, grad):
    """Each argument in turn carries a tangent; none is lost, whether gradients are recorded too or not."""
    primals = [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    function(*primals)  # what is kept between calls must not hide a tangent
    for i, primal in enumerate(primals):
        tangent = torch.randn_like(primal)
        with forward_ad.dual_level(), torch.set_grad_enabled(grad):
            dual = forward_ad.make_dual(primal, tangent)
            arguments = [*primals[:i], dual, *primals[i + 1 :]]
            ours = forward_ad.unpack_dual(function(*arguments))
            expected = forward_ad.unpack_dual(plain(*arguments))
        assert ours.tangent is not None
        torch.testing.assert_close(ours.primal, expected.primal)
        torch.testing.assert_close(ours.tangent, expected.tangent)


def test_a_dual_level_without_tangents_changes_nothing():
    x, w = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3)
    with record_kernels() as before:
        ops.conv2d(x, w)
    with forward_ad.dual_level(), record_kernels() as within:
        ops.conv2d(x, w)
    assert within == before


@pytest.mark.parametrize("sample", samples.FEATURES[::4], ids=by_name)
def test_torch_func(sample):
    """grad, vmap of grad, and jvp: they run the op in PyTorch's own pieces."""
    a = sample.arguments(torch.float64)

    def loss(op, convert):
        return lambda w, x: op(**convert({**a, "input": x, "weight": w})).square().sum()

    ours = loss(ops.conv2d, lambda a: a)
    plain = loss(reference.conv2d, lambda a: samples.plain(sample, a))
    w, x = a["weight"], a["input"]
    for transform in (
        lambda f: torch.func.grad(f, (0, 1))(w, x),
        lambda f: torch.func.vmap(torch.func.grad(f), (0, None))(torch.stack([w, -w]), x),
        lambda f: torch.func.jvp(f, (w, x), (x.new_ones(w.shape), x.new_ones(x.shape))),
    ):
        torch.testing.assert_close(transform(ours), transform(plain))


def test_torch_func_obeys_an_explicit_backend():
    x, w = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3)
    gradient = torch.func.grad(lambda w: ops.conv2d(x, w).sum())
    with record_kernels() as names:
        gradient(w)
    assert names == ["torch/conv2d"]
    with use_backend("cpu"), pytest.raises(BackendError, match=r"torch\.func"):
        gradient(w)


def test_eight_threads_at_once():
    sample = samples.CONVS[-1]
    arguments = [sample.arguments(draw=draw) for draw in range(8)]
    transposed = samples.TRANSPOSED[0].arguments()
    expected = [ops.conv2d(**a) for a in arguments]
    upsampled = ops.conv_transpose2d(**transposed)

    def work(i):
        for _ in range(20):
            if not torch.equal(ops.conv2d(**arguments[i]), expected[i]):
                return False
            if not torch.equal(ops.conv_transpose2d(**transposed), upsampled):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_recording_sees_other_threads():
    x, weight = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3)
    with record_kernels() as names, ThreadPoolExecutor(1) as pool:
        pool.submit(ops.conv2d, x, weight).result()
    assert len(names) == 1
    ops.conv2d(x, weight)
    assert len(names) == 1


def _child(arguments, queue):
    torch.set_num_threads(1)
    queue.put(ops.conv2d(**arguments).numpy().copy())


def test_fork_after_use():
    arguments = samples.Conv(activation="relu").arguments()
    expected = ops.conv2d(**arguments)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_child, args=(arguments, queue))
    process.start()
    result = torch.from_numpy(queue.get(timeout=60))
    process.join(60)
    assert process.exitcode == 0
    torch.testing.assert_close(result, expected)
