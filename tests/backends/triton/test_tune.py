# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels tune and doctor, as far as they go without a GPU."""

from __future__ import annotations

import pytest

from sr_kernels import backends
from sr_kernels.backends import registry
from sr_kernels.backends.triton import configs, launch, plan, tune
from sr_kernels.cli import main

pytestmark = pytest.mark.usefixtures("interpreted")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_KERNELS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(configs, "_tuned", {})
    monkeypatch.setattr(backends, "available_backends", lambda: {"triton": []})
    whole = tune.layer_of
    monkeypatch.setattr(tune, "layer_of", lambda task, device="cpu": whole(task, "cpu"))
    return tmp_path


@pytest.fixture
def tuned(monkeypatch):
    """The tasks that `tune` was given; each is measured by a table of two, the third is cut off."""
    found = []

    def measure(tasks, **options):
        for task in tasks:
            if len(found) == 2:
                raise KeyboardInterrupt
            found.append(task)
            _, layer = tune.layer_of(task)
            yield tune.Outcome(task, layer, [(1e-6, configs.Config(4, 32, 16, 16))], [])

    monkeypatch.setattr(tune, "tune", measure)
    monkeypatch.setattr(launch, "INTERPRETED", False)
    return found


def test_what_was_measured_is_kept_if_the_run_is_cut_short(tuned, monkeypatch):
    assert main(["tune"]) != 0
    monkeypatch.setattr(configs, "_tuned", {})
    expected = {tune.layer_of(task)[1].key() for task in tuned}
    assert len(expected) == 2
    assert configs.tuned(plan.device_key(0)).keys() == expected


def test_layers_are_named_by_their_keys(tuned, capsys):
    key = tune.layer_of(tune.USUAL[1])[1].key()
    assert main(["tune", "--only", key]) == 0
    assert tuned == [tune.USUAL[1]]
    assert key in capsys.readouterr().out


def test_as_few_as_one_configuration(tuned, capsys):
    found = tune.candidates(tune.layer_of(tune.USUAL[0])[1])
    assert tune._thinned(found, 0) == []
    assert tune._thinned(found, 1) == found[:1]
    assert main(["tune", "--most", "0"]) != 0
    assert "at least 1" in capsys.readouterr().err


def test_doctor_says_why_triton_is_not_used(monkeypatch):
    """An older Triton is left out, which breaks nothing."""
    from sr_kernels.cli import doctor

    monkeypatch.setitem(registry._backends, "triton", registry.Absent("triton", "cannot be loaded: too old"))
    (line,) = doctor._triton()
    assert "too old" in line[1]
    assert "3.4" in line[1]


def test_under_the_interpreter_there_is_nothing_to_tune(capsys):
    if not launch.INTERPRETED:
        pytest.skip("Triton compiles here")
    assert main(["tune"]) == 1
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err
