# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A kernel that computes nonsense is found, left out and named; a pass is remembered on disk."""

from __future__ import annotations

import json

import pytest

from sr_kernels.backends import selfcheck

cpu = pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No results in memory or on disk."""
    monkeypatch.setenv("SR_KERNELS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(selfcheck, "_results", {})
    monkeypatch.setattr(cpu, "_isa", None)
    return tmp_path


def break_kernels(monkeypatch, name):
    """The kernels of that instruction set compute another layer than they are asked to."""
    index = next(isa.index for isa in cpu.ISAS if isa.name == name)
    run = cpu._C.conv2d

    def wrong(isa, params):
        if isa == index:
            params.set_epilogue(0, False, 0.0, 1.0, 0.0, 0.0, 1)
        run(isa, params)

    monkeypatch.setattr(cpu._C, "conv2d", wrong)


def test_every_set_passes_and_is_remembered(fresh):
    assert set(selfcheck.report().values()) == {"passed"}
    passed = json.loads((fresh / "selfcheck.json").read_text())["passed"]
    assert len(passed) == len(cpu.ISAS)
    assert all(cpu._C.build_id in line for line in passed)


@pytest.mark.parametrize("op", ["shuffle", "add", "image_to_float", "float_to_image"])
def test_memory_ops_are_checked_too(fresh, monkeypatch, op):
    monkeypatch.setattr(cpu._C, op, lambda *_: None)
    with pytest.warns(RuntimeWarning, match=r"residual_add|pixel_shuffle|pictures of 8 bits"):
        assert set(selfcheck.report().values()) != {"passed"}


def test_the_shuffled_store_is_checked_too(fresh, monkeypatch):
    run = cpu._C.conv2d

    def without_base(isa, params):
        params.set_base(0, 1, 1, 1)
        run(isa, params)

    monkeypatch.setattr(cpu._C, "conv2d", without_base)
    with pytest.warns(RuntimeWarning, match="gelu with a shuffle and a base"):
        selfcheck.report()


def test_a_remembered_pass_is_not_run_again(fresh, monkeypatch):
    selfcheck.report()
    monkeypatch.setattr(selfcheck, "_results", {})
    monkeypatch.setattr(selfcheck, "_check_kernel", lambda *_: pytest.fail("ran again"))
    assert set(selfcheck.report().values()) == {"passed"}


def test_broken_kernels_are_left_out_and_named_once(fresh, monkeypatch):
    best = cpu.ISAS[-1].name
    break_kernels(monkeypatch, best)
    with pytest.warns(RuntimeWarning, match=f"{best} CPU kernels failed.*direct_1x") as caught:
        chosen = cpu.current_isa().name
        assert cpu.current_isa().name == chosen
    assert len(caught) == 1
    assert chosen != best or len(cpu.ISAS) == 1
    remembered = fresh / "selfcheck.json"
    assert not remembered.exists() or best not in remembered.read_text()


def test_an_unwritable_cache_is_no_failure(fresh, monkeypatch):
    blocker = fresh / "file"
    blocker.write_text("")
    monkeypatch.setenv("SR_KERNELS_CACHE_DIR", str(blocker / "below"))
    assert set(selfcheck.report().values()) == {"passed"}


@pytest.mark.parametrize("text", ['{"passed": 3', "{}", "[]", '{"passed": [3]}', '{"passed": {}}', ""])
def test_a_damaged_cache_is_no_failure(fresh, text):
    (fresh / "selfcheck.json").write_text(text)
    assert set(selfcheck.report().values()) == {"passed"}
