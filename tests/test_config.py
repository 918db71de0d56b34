# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of environment variables, and the precision setting."""

from __future__ import annotations

import os

import pytest

import sr_kernels
from sr_kernels import config


def test_every_default_parses(monkeypatch):
    for name, variable in config.ENVIRONMENT.items():
        monkeypatch.delenv(name, raising=False)
        assert name == variable.name
        assert name.startswith("SR_KERNELS_")
        assert variable.meaning
        assert config.get(name) == variable.parse(variable.default)
    assert config.get("SR_KERNELS_BACKEND") == "auto"
    assert os.path.isabs(config.get("SR_KERNELS_CACHE_DIR"))


def test_values_are_read_when_asked(monkeypatch):
    monkeypatch.setenv("SR_KERNELS_CPU_ISA", " AVX2 ")
    assert config.get("SR_KERNELS_CPU_ISA") == "avx2"
    monkeypatch.setenv("SR_KERNELS_CPU_ISA", "")
    assert config.get("SR_KERNELS_CPU_ISA") == config.CPU_ISAS[-1]
    monkeypatch.setenv("SR_KERNELS_CUDA_ARCHS", "80;90a, 120")
    assert config.get("SR_KERNELS_CUDA_ARCHS") == ("80", "90a", "120")
    monkeypatch.setenv("SR_KERNELS_BUILD_NATIVE", "maybe")
    with pytest.raises(ValueError, match="SR_KERNELS_BUILD_NATIVE='maybe'.*auto, 0, 1"):
        config.get("SR_KERNELS_BUILD_NATIVE")
    with pytest.raises(KeyError):
        config.get("SR_KERNELS_" + "UNKNOWN")


def test_precision():
    assert config.get_precision() == "high"
    with sr_kernels.set_precision("highest"):
        assert config.get_precision() == "highest"
        with sr_kernels.set_precision("medium"):
            assert config.get_precision() == "medium"
        assert config.get_precision() == "highest"
    assert config.get_precision() == "high"
    sr_kernels.set_precision("medium")
    assert config.get_precision() == "medium"
    sr_kernels.set_precision("high")
    with pytest.raises(ValueError, match="'best'"):
        sr_kernels.set_precision("best")
    assert config.get_precision() == "high"
