# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the extension can be built it is there: otherwise the tests of the kernels would skip, none fail."""

from __future__ import annotations

import importlib
import os
import shutil

import pytest


def test_the_extension_is_there_where_a_compiler_is():
    if os.environ.get("SR_KERNELS_BUILD_NATIVE") == "0":
        pytest.skip("SR_KERNELS_BUILD_NATIVE=0 leaves the extension out")
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler here")
    assert importlib.import_module("sr_kernels._C").build_id
