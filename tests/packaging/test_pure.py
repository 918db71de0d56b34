# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Without a working compiler: a pure Python package that runs PyTorch's own ops and says so once."""

import sys
import zipfile

import pytest

from tests.packaging.builds import run

pytestmark = pytest.mark.slow

NO_COMPILER = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}

CONVOLVE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import sr_kernels
    import torch
    x, w = torch.randn(1, 3, 9, 9), torch.randn(4, 3, 3, 3)
    with sr_kernels.record_kernels() as kernels:
        for _ in range(3):
            y = sr_kernels.ops.conv2d(x, w, padding=1)
assert torch.equal(y, torch.nn.functional.conv2d(x, w, padding=1))
assert not any(name.startswith("cpu/") for name in kernels) and len(kernels) == 3, kernels
said = [str(w.message) for w in caught if "native" in str(w.message)]
assert len(said) == 1 and "compiler" in said[0], said
try:
    sr_kernels.ops.conv2d(x, w, backend="cpu")
except sr_kernels.backends.BackendError as error:
    assert "_C" in str(error), error
else:
    raise AssertionError("an explicit choice of a backend that is not there must raise")
"""


def test_auto_without_a_compiler_is_pure_and_says_so(wheel, environment, tmp_path):
    path, printed = wheel(**NO_COMPILER)
    assert path.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(path).namelist() if name.endswith(".so")]
    assert "NO NATIVE KERNELS" in printed
    assert "/nonexistent/c++" in printed
    environment.install(path, cwd=tmp_path)
    environment.execute(CONVOLVE)


def test_auto_with_a_compiler_that_fails_is_pure(wheel, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'error: no licence' >&2\nexit 1\n")
    broken.chmod(0o755)
    path, printed = wheel(CC=str(broken), CXX=str(broken))
    assert path.name.endswith("-py3-none-any.whl")
    assert "error: no licence" in printed


def test_0_is_pure_whatever_is_there(wheel):
    path, printed = wheel(SR_KERNELS_BUILD_NATIVE="0")
    assert path.name.endswith("-py3-none-any.whl")
    assert "SR_KERNELS_BUILD_NATIVE=0" in printed


def test_an_editable_package_made_pure_loses_its_extension(tree, environment):
    (tree / "sr_kernels/_C.of-an-earlier-build.so").touch()
    environment.install("--editable", tree, cwd=tree, SR_KERNELS_BUILD_NATIVE="0")
    assert not list((tree / "sr_kernels").glob("*.so"))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SR_KERNELS_BUILD_NATIVE": "1", **NO_COMPILER}, "does not start"),
        ({"SR_KERNELS_BUILD_NATIVE": "yes"}, 'give "auto", "1" or "0"'),
    ],
)
def test_what_cannot_be_had_is_an_error(tree, variables, message):
    done = run(sys.executable, "setup.py", "--version", cwd=tree, expect=None, **variables)
    assert message in done.stderr


def test_a_fault_in_the_sources_is_an_error_not_a_pure_package(miniature):
    (miniature / "csrc/cpu/one.h").write_text("#error broken\n")
    done = run(sys.executable, "setup.py", "build_ext", cwd=miniature, expect=None)
    assert "#error broken" in done.stderr
