# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Arguments that do not fit: the error names the argument and what was found; the process stays usable."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from sr_kernels import ops
from sr_kernels.backends import BackendError

X = torch.randn(1, 4, 6, 5)
W = torch.randn(8, 4, 3, 3)


def conv(**changes):
    return lambda: ops.conv2d(**{"input": X, "weight": W, **changes})


def block(**changes):
    weights = [torch.randn(2, 4, 3, 3), torch.randn(4, 6, 3, 3)]
    return lambda: ops.dense_block(**{"input": X, "weights": weights, "biases": [None, None], **changes})


def up(**changes):
    return lambda: ops.conv_transpose2d(
        **{"input": X, "weight": torch.randn(4, 3, 4, 4), "stride": 2, **changes}
    )


CASES = [
    # what is called, the error's type, words that its message must hold
    (conv(input=[1, 2]), TypeError, ["input", "list"]),
    (conv(weight=None), TypeError, ["weight", "NoneType"]),
    (conv(bias=3.0), TypeError, ["bias", "float"]),
    (conv(input=X[0]), ValueError, ["input", "(4, 6, 5)", "input[None]"]),
    (conv(input=X[None]), ValueError, ["input", "5 dimensions"]),
    (conv(input=X.int()), TypeError, ["input", "int32", "input.float()"]),
    (conv(input=X.to(torch.complex64), weight=W.to(torch.complex64)), TypeError, ["input", "complex64"]),
    (conv(input=X.to_sparse()), TypeError, ["input", "layout"]),
    (conv(input=X.double()), TypeError, ["weight", "float32", "float64"]),
    (conv(bias=torch.zeros(8).half()), TypeError, ["bias", "float16"]),
    (conv(weight=W.to("meta")), ValueError, ["weight", "meta", "cpu"]),
    (conv(input=X[:, :, :0]), ValueError, ["input", "(1, 4, 0, 5)"]),
    (conv(input=X[:, :3]), ValueError, ["(1, 3, 6, 5)", "(8, 4, 3, 3)", "groups=1"]),
    (conv(weight=W[0]), ValueError, ["weight", "(4, 3, 3)"]),
    (conv(weight=W[:0]), ValueError, ["weight", "(0, 4, 3, 3)"]),
    (conv(groups=3), ValueError, ["groups=3"]),
    (conv(groups=0), ValueError, ["groups", "0"]),
    (conv(bias=torch.zeros(7)), ValueError, ["bias", "(8)", "(7)"]),
    (conv(stride=0), ValueError, ["stride", "(0, 0)"]),
    (conv(stride=(1, 1, 1)), ValueError, ["stride", "(1, 1, 1)"]),
    (conv(weight=W[0], padding="same"), ValueError, ["weight", "(4, 3, 3)"]),
    (conv(stride=1.5), TypeError, ["stride", "1.5", "round"]),
    (conv(stride="x"), TypeError, ["stride", "'x'", "int"]),
    (conv(stride=(1, None)), TypeError, ["stride", "None", "pair"]),
    (conv(dilation=1.0), TypeError, ["dilation", "1.0"]),
    (conv(padding=None), TypeError, ["padding", "None", "same"]),
    (conv(padding=(1, 1, 1, 0.5)), TypeError, ["padding", "0.5"]),
    (conv(groups=None), TypeError, ["groups", "None"]),
    (conv(upsample=2.0), TypeError, ["upsample", "2.0"]),
    (conv(pixel_shuffle="2"), TypeError, ["pixel_shuffle", "'2'"]),
    (conv(scale=None), TypeError, ["scale", "NoneType"]),
    (conv(scale=torch.ones(1)), TypeError, ["scale", "Tensor", ".item()"]),
    (conv(negative_slope="a"), TypeError, ["negative_slope", "str"]),
    (conv(activation=3), TypeError, ["activation", "int"]),
    (conv(activation_after_add=None), TypeError, ["activation_after_add", "None"]),
    (conv(base_mode=1), TypeError, ["base_mode", "int"]),
    (conv(backend=1), TypeError, ["backend", "int"]),
    (conv(residual=[(X, "a")]), TypeError, ["residual", "str"]),
    (up(stride=2.0), TypeError, ["stride", "2.0"]),
    (up(negative_slope=None), TypeError, ["negative_slope", "NoneType"]),
    (block(scale=None), TypeError, ["scale", "NoneType"]),
    (block(input_scale="1"), TypeError, ["input_scale", "str"]),
    (lambda: ops.pixel_shuffle(X, 2.0), TypeError, ["upscale_factor", "2.0"]),
    (lambda: ops.pixel_unshuffle(X, None), TypeError, ["downscale_factor", "None"]),
    (lambda: ops.residual_add(X, X, scale=None), TypeError, ["scale", "NoneType"]),
    (lambda: ops.float_to_image(X, "uint8"), TypeError, ["dtype", "'uint8'", "torch.uint8"]),
    (conv(dilation=-1), ValueError, ["dilation", "-1"]),
    (conv(padding=-1), ValueError, ["padding", "-1"]),
    (conv(padding=(1, 2, 3)), ValueError, ["padding", "(1, 2, 3)"]),
    (conv(padding="reflect"), ValueError, ["padding", "reflect"]),
    (conv(padding="same", stride=2), ValueError, ["same", "stride"]),
    (conv(dilation=4), ValueError, ["(3, 3)", "dilation", "(1, 4, 6, 5)"]),
    (conv(upsample=0), ValueError, ["upsample", "0"]),
    (conv(activation="swish"), ValueError, ["activation", "swish", "silu"]),
    (conv(activation="prelu"), ValueError, ["prelu_weight"]),
    (conv(prelu_weight=torch.ones(8)), ValueError, ["prelu_weight", "none"]),
    (conv(activation="prelu", prelu_weight=torch.ones(4)), ValueError, ["prelu_weight", "(4)", "(8,)"]),
    (conv(residual=X), ValueError, ["residual", "(1, 8, 4, 3)", "(1, 4, 6, 5)"]),
    (conv(residual=3), TypeError, ["residual", "int"]),
    (conv(residual=[X]), TypeError, ["residual", "pairs"]),
    (conv(residual=[(X, 1.0)] * 3), ValueError, ["residual", "3"]),
    (conv(pixel_shuffle=3), ValueError, ["pixel_shuffle=3", "9", "8"]),
    (conv(base=X), ValueError, ["base", "(1, 8, 4, 3)"]),
    (conv(base_mode="nearest"), ValueError, ["base_mode", "None"]),
    (conv(base=X, base_mode="bicubic"), ValueError, ["base_mode", "bicubic"]),
    (
        conv(base=torch.zeros(1, 8, 2, 2), base_mode="nearest"),
        ValueError,
        ["base", "(1, 8, 2, 2)", "(1, 8, 4, 3)"],
    ),
    (conv(backend="gpu"), ValueError, ["backend", "gpu", "cpu"]),
    (conv(backend="cuda"), BackendError, ["cuda", "cannot run this"]),
    (conv(backend="triton"), BackendError, ["triton", "was asked for and cannot run this"]),
    (block(weights=torch.ones(2)), TypeError, ["weights", "Tensor"]),
    (block(biases=[None]), ValueError, ["weights", "biases", "2", "1"]),
    (block(biases=[None, torch.zeros(3)]), ValueError, ["biases[1]", "(4)", "(3)"]),
    (block(biases=[None, 0]), TypeError, ["biases[1]", "int"]),
    (
        block(weights=[torch.ones(2, 4, 3, 3), torch.ones(4, 4, 3, 3)]),
        ValueError,
        ["weights[1]", "6 channels"],
    ),
    (
        block(weights=[torch.ones(2, 4, 3, 3), torch.ones(3, 6, 3, 3)]),
        ValueError,
        ["weights[1]", "4 channels"],
    ),
    (block(weights=[torch.ones(2, 4, 2, 2), torch.ones(4, 6, 3, 3)]), ValueError, ["weights[0]", "odd"]),
    (block(residual=X[:, :, 1:]), ValueError, ["residual", "(1, 4, 5, 5)"]),
    (up(weight=torch.ones(3, 3, 4, 4)), ValueError, ["weight", "(3, 3, 4, 4)", "(1, 4, 6, 5)"]),
    (up(bias=torch.ones(4)), ValueError, ["conv_transpose2d", "bias", "(3)", "(4)"]),
    (up(output_padding=2), ValueError, ["output_padding=2"]),
    (up(padding=-1), ValueError, ["padding=-1"]),
    (up(padding=9), ValueError, ["padding=9"]),
    (up(stride=(2, 1), backend="cpu"), BackendError, ["cpu", "(2, 1)"]),
    (up(stride=(1, 2), backend="foo"), ValueError, ["backend", "foo", "triton"]),
    (up(backend="foo"), ValueError, ["backend", "foo", "triton"]),
    (up(weight=torch.ones(4, 3, 4, 4).double()), TypeError, ["conv_transpose2d", "weight", "float64"]),
    (up(bias=torch.ones(3).half()), TypeError, ["conv_transpose2d", "bias", "float16"]),
    (up(activation="prelu"), ValueError, ["conv_transpose2d", "no prelu_weight"]),
    (up(stride=(1, 2), activation="prelu"), ValueError, ["conv_transpose2d", "no prelu_weight"]),
    (up(stride=(1, 2), activation="swish"), ValueError, ["conv_transpose2d", "activation", "swish"]),
    (up(stride=(1, 2), prelu_weight=torch.ones(3)), ValueError, ["conv_transpose2d", "a prelu_weight"]),
    (
        up(activation="prelu", prelu_weight=torch.tensor(0.1)),
        ValueError,
        ["conv_transpose2d", "prelu_weight", "(3,)", "()"],
    ),
    (
        up(activation="prelu", prelu_weight=torch.ones(12)),
        ValueError,
        ["conv_transpose2d", "prelu_weight", "(3,)", "(12)"],
    ),
    (lambda: ops.pixel_shuffle(X, 3), ValueError, ["upscale_factor", "3", "(1, 4, 6, 5)"]),
    (lambda: ops.pixel_shuffle(X, 0), ValueError, ["upscale_factor", "0"]),
    (lambda: ops.pixel_shuffle(X[0], 2), ValueError, ["input", "(4, 6, 5)"]),
    (lambda: ops.pixel_unshuffle(X, 2), ValueError, ["downscale_factor", "2", "(1, 4, 6, 5)"]),
    (lambda: ops.residual_add(X, X[:, 1:]), ValueError, ["residual", "(1, 3, 6, 5)"]),
    (lambda: ops.residual_add(X, []), ValueError, ["residual", "none"]),
    (lambda: ops.residual_add(X, None), ValueError, ["residual", "none"]),
    (lambda: ops.image_to_float(X), TypeError, ["image", "float32"]),
    (lambda: ops.image_to_float(X.byte()), ValueError, ["image", "(1, 4, 6, 5)"]),
    (lambda: ops.float_to_image(X.expand(2, 4, 6, 5)), ValueError, ["input", "(2, 4, 6, 5)"]),
    (lambda: ops.float_to_image(X, torch.int8), TypeError, ["dtype", "int8"]),
]


@pytest.mark.parametrize(("call", "error", "words"), CASES, ids=[" ".join(words) for _, _, words in CASES])
def test_message(call, error, words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert re.match(
        r"(conv2d|conv_transpose2d|dense_block|pixel_|residual_add|image_|float_|backend)", message
    )
    assert torch.isfinite(ops.conv2d(X, W)).all()


def test_numbers_of_numpy():
    one, two = np.int64(1), np.int32(2)
    y = ops.conv2d(X, W, stride=(two, two), padding=one, pixel_shuffle=two, scale=np.float32(0.5))
    assert torch.equal(y, ops.conv2d(X, W, stride=2, padding=1, pixel_shuffle=2, scale=0.5))
    assert torch.equal(ops.pixel_shuffle(X, two), ops.pixel_shuffle(X, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_op_itself_checks_too(dtype):
    """A graph may call the op without its public function: the same checks hold."""
    with pytest.raises(ValueError, match="residual"):
        torch.ops.sr_kernels.conv2d(X.to(dtype), W.to(dtype), residual1=X.to(dtype))


def test_inputs_stay_as_they_are():
    x, w = X.clone(), W.clone()
    for call, error, _ in CASES:
        with pytest.raises(error):
            call()
    assert torch.equal(x, X)
    assert torch.equal(w, W)
