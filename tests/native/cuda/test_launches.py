# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""An error of a launch names the op, its shapes, the kernel, the blocks and their shared memory."""

import pytest
import torch

from sr_kernels.backends.base import DenseBlockArgs
from tests.native.cuda.test_emulated import arguments, layer


def half(*shape):
    return torch.randn(shape).half().contiguous(memory_format=torch.channels_last)


def conv2d(sample):
    return lambda backend: backend.conv2d(arguments(sample, torch.float16)[0])


def block(backend):
    weights = [half(8, 16, 3, 3), half(16, 24, 3, 3)]
    return backend.dense_block(DenseBlockArgs(half(1, 16, 9, 9), weights, [None, None]))


CALLS = {
    "portable": (
        conv2d(layer(64, 64, stride=2)),
        r"conv2d of input \(1, 64, 17, 19\), weight \(64, 64, 3, 3\), output \(1, 64, 9, 10\), "
        r"stride \(2, 2\), kernel conv2d_sm80/64x64, "
        r"launch of conv2d_sm80 in 1x1 blocks of 256 threads with [1-9]\d+ bytes",
    ),
    "few outputs": (
        conv2d(layer(64, 3, 40, 40)),
        r"kernel conv2d_tail, launch of conv2d_tail_kernel in 6x1 .*with [1-9]\d+ bytes",
    ),
    "Hopper": (
        conv2d(layer(64, 130)),
        r"kernel conv2d_sm90/resident, launch of conv3x3 in 3x1 blocks of 384 threads with [1-9]\d+ bytes",
    ),
    "block": (block, r"conv2d of input \(1, 16, 9, 9\), weight \(8, 16, 3, 3\).*launch of conv3x3 in 1x1 "),
    "shuffle": (
        lambda backend: backend.pixel_shuffle(half(1, 32, 5, 8), 2),
        r"pixel_shuffle of \(1, 32, 5, 8\), launch of shuffle_pieces_kernel in 1x5 blocks of 256 threads",
    ),
    "elements": (
        lambda backend: backend.pixel_unshuffle(half(1, 3, 4, 6), 2),
        r"pixel_unshuffle of \(1, 12, 2, 3\), launch of shuffle_kernel in 1x4 blocks",
    ),
    "sum": (
        lambda backend: backend.residual_add(half(1, 64, 9, 9), [(half(1, 64, 9, 9), 1.0)], 1.0),
        r"residual_add of 5184 elements, launch of add_kernel in 3x1 blocks of 256 threads with 0 bytes",
    ),
    "picture": (
        lambda backend: backend.float_to_image(torch.rand(1, 3, 5, 7), torch.uint8),
        r"float_to_image of 105 elements, launch of to_image_kernel in 1x1 blocks",
    ),
}


@pytest.mark.parametrize(("call", "words"), CALLS.values(), ids=CALLS)
def test_errors_of_launches(hopper, monkeypatch, call, words):
    call(hopper)
    monkeypatch.setenv("SRK_EMULATE_REFUSE", "1")
    with pytest.raises(RuntimeError, match=f"{words}.*of shared memory: invalid value"):
        call(hopper)
