# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line: exit status, messages, files."""

import os
import pty
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sr_kernels import __version__, cli, models
from sr_kernels.backends import selfcheck
from sr_kernels.cli import main
from sr_kernels.image import Picture, read, write
from sr_kernels.pipeline import upscale


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(models.create("srvgg", scale=2, num_feat=16, num_conv=2).state_dict(), path)
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    write(Picture(noise(33, 47, 3)), path)
    return path


@pytest.fixture
def run(capsys, weights):
    """main() with the small weights: (status, stdout, stderr)."""

    def call(*arguments, given=True):
        extra = ["--weights", str(weights)] if given else []
        status = main(["upscale", *map(str, arguments), *extra])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "sr_kernels", *map(str, arguments)], capture_output=True, text=True, **options
    )


# One picture.


def test_the_default_output_lies_beside_the_input(run, photo, weights):
    status, out, err = run(photo)
    assert (status, err) == (0, "")
    larger = photo.with_name("photo_x2.png")
    assert sorted(p.name for p in photo.parent.iterdir()) == ["photo.png", "photo_x2.png"]
    np.testing.assert_array_equal(read(larger).pixels, upscale(read(photo).pixels, weights))
    assert "47x33 -> 94x66" in out
    assert " s  " in out
    assert any(name in out for name in ("cpu/", "torch/"))


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "bmp", "ppm", "jpg"])
def test_a_named_output(run, photo, tmp_path, suffix):
    assert run(photo, tmp_path / f"larger.{suffix}")[0] == 0
    assert read(tmp_path / f"larger.{suffix}").pixels.shape == (66, 94, 3)


def test_a_folder_as_the_output_of_a_file(run, photo, tmp_path):
    (tmp_path / "out").mkdir()
    assert run(photo, tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "photo_x2.png").exists()


def test_depth_alpha_and_profile_go_through(run, tmp_path):
    picture = Picture(noise(21, 20, 3, dtype=np.uint16), noise(21, 20, dtype=np.uint16), b"a profile")
    write(picture, tmp_path / "deep.tiff")
    assert run(tmp_path / "deep.tiff")[0] == 0
    larger = read(tmp_path / "deep_x2.png")
    assert larger.pixels.dtype == np.uint16
    assert larger.alpha.shape == (42, 40)
    assert larger.icc_profile == b"a profile"


def test_options_are_heeded(run, photo, monkeypatch):
    threads = torch.get_num_threads()
    try:
        status, out, _ = run(photo, "--tile", 24, "--backend", "torch", "--threads", 1, "--scale", 2)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert status == 0
    assert "torch/" in out
    assert "cpu/" not in out
    assert run(photo, "--overwrite", "--dtype", "bfloat16")[0] == 0


def test_the_embedded_model(photo, capsys):
    assert main(["upscale", str(photo), "--scale", "4"]) == 0
    assert read(photo.with_name("photo_x4.png")).pixels.shape == (132, 188, 3)
    assert main(["upscale", str(photo), "--model", "compact"]) == 0
    assert read(photo.with_name("photo_x2.png")).pixels.shape == (66, 94, 3)


def test_an_existing_output_is_kept_unless_told(run, photo):
    target = photo.with_name("photo_x2.png")
    target.write_bytes(b"precious")
    status, out, err = run(photo)
    assert (status, out) == (1, "")
    assert err.startswith(f"sr-kernels: error: {target}: ")
    assert "--overwrite" in err
    assert target.read_bytes() == b"precious"
    assert run(photo, "--overwrite")[0] == 0
    assert read(target).pixels.shape == (66, 94, 3)


@pytest.mark.parametrize("through", ["itself", "link", "hard link"])
def test_the_input_is_never_overwritten(run, photo, tmp_path, through):
    before, target = photo.read_bytes(), photo
    if through != "itself":
        target = tmp_path / "other.png"
        (os.link if through == "hard link" else os.symlink)(photo, target)
    status, _, err = run(photo, target, "--overwrite")
    assert status == 1
    assert "never overwritten" in err
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/missing.png"], "missing.png: no such file"),
        (["{photo}", "{tmp}/x.gif"], "suffix '.gif'"),
        (["{photo}", "{tmp}/nowhere/x.png"], "folder does not exist"),
        (["{photo}", "--scale", "3"], "scale=3 was asked, the weights have scale=2"),
        (["{photo}", "--max-pixels", "1550"], "photo.png: 47x33 is more than the limit of 1550"),
        (["{tmp}/text.png"], "text.png: not a readable picture"),
        (["{tmp}/cut.png"], "cut.png: truncated or damaged"),
        (["{tmp}/alpha.png", "{tmp}/x.jpg"], "cannot hold alpha"),
        (["{photo}", "--backend", "cuda"], "cuda"),
    ],
)
def test_failures(run, photo, tmp_path, arguments, message):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:2000])
    write(Picture(noise(9, 9, 3), noise(9, 9)), tmp_path / "alpha.png")
    before = sorted(tmp_path.iterdir())
    status, out, err = run(*(a.format(tmp=tmp_path, photo=photo) for a in arguments))
    assert (status, out) == (1, "")
    assert err.startswith("sr-kernels: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_bad_weights(photo, tmp_path, capsys, content):
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert main(["upscale", str(photo), "--weights", str(path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("sr-kernels: error: ")
    assert "bad.safetensors" in err
    assert err.count("\n") == 1


def test_max_pixels_can_be_raised(run, photo):
    assert run(photo, "--max-pixels", 10**9)[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonesuch"],
        ["upscale"],
        ["upscale", "a.png", "--tile", "0"],
        ["upscale", "a.png", "--tile", "many"],
        ["upscale", "a.png", "--dtype", "int8"],
        ["upscale", "a.png", "--backend", "quantum"],
        ["upscale", "a.png", "--model", "compact", "--weights", "x.pth"],
        ["upscale", "a.png", "b.png", "c.png"],
    ],
)
def test_wrong_usage(arguments, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "usage: sr-kernels" in err
    assert "error:" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upscale", "a.png", "--scale", "abc"], "--scale: must be an integer of at least 1, found 'abc'"),
        (["upscale", "a.png", "--scale", "-2"], "--scale: must be an integer of at least 1, found '-2'"),
        (["train", "--steps", "1.5"], "--steps: must be an integer of at least 1, found '1.5'"),
        (["upscale", "a.png", "--threads", "99999"], "--threads: must be at most "),
        (["train", "--threads", "99999"], "--threads: must be at most "),
        (["upscale", "a.png", "--set", "scale"], "--set: must be KEY=VALUE, found 'scale'"),
        (["upscale", "a.png", "--set", "=3"], "--set: must be KEY=VALUE, found '=3'"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_what_a_checkpoint_does_not_tell_can_be_set(photo, tmp_path, capsys):
    torch.manual_seed(2)
    path = tmp_path / "open.safetensors"
    model = models.create("edsr", scale=2, num_feat=8, num_block=1, res_scale=0.1)
    save_file(model.state_dict(), path)
    arguments = ["upscale", str(photo), "--weights", str(path), "--overwrite"]
    assert main([*arguments, "--set", "res_scale=0.1", "--set", "image_range=255"]) == 0
    expected = upscale(read(photo).pixels, str(path), options={"res_scale": "0.1", "image_range": "255"})
    np.testing.assert_array_equal(read(photo.with_name("photo_x2.png")).pixels, expected)
    assert main([*arguments, "--set", "res_scale=1"]) == 0
    assert (read(photo.with_name("photo_x2.png")).pixels != expected).any()
    capsys.readouterr()
    assert main([*arguments, "--set", "nonesuch=1"]) == 1
    assert "nonesuch" in capsys.readouterr().err


def test_unknown_model(photo, capsys):
    assert main(["upscale", str(photo), "--model", "nonesuch"]) == 1
    assert "'nonesuch' is not known" in capsys.readouterr().err


# A folder.


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "in"
    (path / "below").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "b.png", ".hidden.png"):
        write(Picture(noise(20, 30, 3)), path / name)
    (path / "notes.txt").write_text("no picture")
    write(Picture(noise(20, 30, 3)), path / "below" / "c.png")
    return path


def test_a_folder(run, folder, tmp_path):
    status, out, err = run(folder)
    assert (status, err) == (0, "")
    names = sorted(p.name for p in (tmp_path / "in_x2").iterdir())
    assert names == ["a_x2.png", "b.jpg_x2.png", "b.png_x2.png"]
    assert "3 enlarged, 0 skipped because their output exists, 0 failed" in out


@pytest.mark.parametrize(
    "names",
    [
        ("a.jpg", "a.png", "a_png.bmp", "a_jpg.bmp"),
        ("a.jpg", "a.png", "a.png.bmp", "a.png.ppm"),
        ("a.jpg", "a.png", "a.png.bmp", "a.png.bmp_x2.bmp", "a.jpg_x2.png"),
    ],
)
def test_no_output_of_a_folder_takes_anothers_name(run, tmp_path, names):
    folder = tmp_path / "in"
    folder.mkdir()
    for height, name in enumerate(names, start=9):
        write(Picture(noise(height, 9, 3)), folder / name)
    status, out, _ = run(folder, tmp_path / "out", "--overwrite")
    assert status == 0
    assert f"{len(names)} enlarged" in out
    heights = sorted(read(path).height for path in (tmp_path / "out").iterdir())
    assert heights == [2 * height for height in range(9, 9 + len(names))]


def test_a_second_run_skips_what_is_there(run, folder, tmp_path):
    assert run(folder, tmp_path / "out")[0] == 0
    (tmp_path / "out" / "a_x2.png").unlink()
    before = (tmp_path / "out" / "b.png_x2.png").stat()
    status, out, _ = run(folder, tmp_path / "out")
    assert status == 0
    assert "1 enlarged, 2 skipped because their output exists, 0 failed" in out
    after = (tmp_path / "out" / "b.png_x2.png").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "3 enlarged, 0 skipped" in run(folder, tmp_path / "out", "--overwrite")[1]


def test_one_bad_file_stops_nothing(run, folder, tmp_path):
    (folder / "aa.png").write_bytes((folder / "a.png").read_bytes()[:500])
    status, out, err = run(folder, tmp_path / "out")
    assert status == 1
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert "3 enlarged, 0 skipped because their output exists, 1 failed" in out
    assert f"failed: {folder / 'aa.png'}: truncated" in out
    assert err.startswith(f"sr-kernels: error: {folder / 'aa.png'}: truncated")
    # The failure is tried again, the rest is not.
    status, out, _ = run(folder, tmp_path / "out")
    assert status == 1
    assert "0 enlarged, 3 skipped because their output exists, 1 failed" in out


def test_folders_that_cannot_be(run, folder, tmp_path):
    for arguments, message in (
        ([folder, folder], "is the input folder itself"),
        ([folder, folder / "a.png"], "is a file"),
        ([tmp_path], "no pictures"),
    ):
        status, _, err = run(*arguments)
        assert status == 1
        assert message in err


# Interruption, faults, streams.


def test_the_output_may_stand_behind_the_options(photo, tmp_path, weights):
    out = tmp_path / "out.png"
    assert cli.main(["upscale", str(photo), "--weights", str(weights), str(out)]) == 0
    assert out.exists()
    assert cli.main(["upscale", str(photo), "--weights", str(weights), str(out), "more"]) == 2


def test_a_pipe_is_refused(tmp_path, weights, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    assert cli.main(["upscale", str(tmp_path / "pipe.png"), "--weights", str(weights)]) == 1
    assert "pipe.png: is neither a file nor a folder" in capsys.readouterr().err


def test_ctrl_c(photo, weights):
    script = (
        "import os, signal, sys, time\n"
        # a process started in the background inherits an ignored SIGINT
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from sr_kernels import cli\n"
        "from sr_kernels.image import io\n"
        "def stop(*args):\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
        "io.os.fsync = stop\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = ["upscale", str(photo), "--weights", str(weights)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == "sr-kernels: interrupted\n"
    assert list(photo.parent.iterdir()) == [photo]


def test_a_fault_of_ours_shows_no_traceback_unless_asked(photo, weights, monkeypatch, capsys):
    def fail(*args):
        raise KeyError("what?")

    monkeypatch.setattr(cli.upscale.Job, "enlarge", fail)
    arguments = ["upscale", str(photo), "--weights", str(weights)]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err == "sr-kernels: error: KeyError: 'what?' (an unexpected fault; --traceback shows where)\n"
    assert main([*arguments, "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_warnings_are_one_line(run, photo, tmp_path, capsys):
    write(Picture(noise(9, 9, 3), icc_profile=b"a profile"), tmp_path / "p.png")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        status, _, err = run(tmp_path / "p.png", tmp_path / "p.ppm")
    assert status == 0
    assert err.startswith("sr-kernels: warning: ")
    assert "profile" in err
    assert err.count("\n") == 1


def test_as_a_program(photo, weights, tmp_path):
    done = command("upscale", photo, "--weights", weights)
    assert (done.returncode, done.stderr) == (0, "")
    assert "47x33 -> 94x66" in done.stdout
    done = command("upscale", tmp_path / "missing.png")
    assert done.returncode == 1
    assert done.stderr == f"sr-kernels: error: {tmp_path / 'missing.png'}: no such file or folder\n"
    assert command("upscale").returncode == 2
    assert command("--version").stdout == f"sr-kernels {__version__}\n"


def test_no_space(photo, weights):
    script = (
        "import resource, sys\n"
        "from sr_kernels import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = ["upscale", str(photo), "--weights", str(weights)]
    environment = {**os.environ, "SR_KERNELS_CACHE_DIR": str(photo.parent.parent / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"sr-kernels: error: {photo.with_name('photo_x2.png')}: cannot write")
    assert list(photo.parent.iterdir()) == [photo]


def test_a_bar_on_a_terminal(photo, weights):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sr_kernels", "upscale", photo, "--weights", weights, "--tile", "24"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"photo.png" in shown
    assert b"47x33 -> 94x66" in out


def test_plain_lines_elsewhere(capsys, monkeypatch):
    from sr_kernels.cli import progress

    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    with progress.Progress(2) as shown:
        watch = shown.watch("a.png")
        for done in range(4):
            watch(done, 3)
        shown.next_picture()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["a.png: 0 of 3 tiles", "a.png: 1 of 3 tiles", "a.png: 2 of 3 tiles"]
    with progress.Progress(unit="steps") as shown:
        shown.watch("training")(1, 4, "loss 0.5")
    assert capsys.readouterr().err == "training: 1 of 4 steps  loss 0.5\n"


def test_help_loads_no_torch():
    script = (
        "import sys, sr_kernels.cli as c; c.main(['upscale', '--help']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--max-pixels" in done.stdout


# doctor, models.


def test_doctor():
    # by itself: what other tests have imported may have brought an OpenMP runtime of its own
    done = subprocess.run([sys.executable, "-m", "sr_kernels", "doctor"], capture_output=True, text=True)
    out = done.stdout
    assert done.returncode == 0, out + done.stderr
    assert out.endswith("nothing is broken\n")
    for word in (
        __version__,
        torch.__version__.split("+")[0],
        "Backends",
        "cpu",
        "torch",
        "compact_x2",
        "OpenMP",
    ):
        assert word in out


def test_doctor_says_what_is_broken(capsys, monkeypatch):
    monkeypatch.setattr(selfcheck, "report", lambda: {"scalar": "passed", "avx2": "error 3 above 1"})
    monkeypatch.setenv("SR_KERNELS_BACKEND", "quantum")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "SR_KERNELS_BACKEND='quantum'" in out
    assert "broken" in out.splitlines()[-1]
    assert "Embedded weights" in out, "one broken part must not hide the others"


def test_one_listing_of_the_weights_serves_all(capsys, monkeypatch):
    assert list(models.embedded_files()) == [2, 4]
    monkeypatch.setattr(models.factory.importlib.resources, "files", lambda package: "/nowhere")
    with pytest.raises(ValueError, match="carries weights for: none"):
        models.embedded(2)
    assert main(["models"]) == 0
    assert "no embedded weights in this installation" in capsys.readouterr().out
    assert main(["doctor"]) == 1
    assert "the embedded weights are missing" in capsys.readouterr().out


def test_models(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for name in models.list_models():
        assert name in out
    embedded = models.embedded(2)
    row = next(line for line in out.splitlines() if line.startswith("compact_x2"))
    assert f"{sum(p.numel() for p in embedded.parameters()):,}" in row
    assert "2x" in row


def test_every_command_has_help(capsys):
    for name in ("upscale", "models", "doctor", "train"):
        assert main([name, "--help"]) == 0
        assert f"usage: sr-kernels {name}" in capsys.readouterr().out
