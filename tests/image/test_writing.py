# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Writing: what is written is read back, whole or not at all."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from sr_kernels.image import Picture, PictureError, read, write
from sr_kernels.image.files import commit

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ALPHA, DEEP = {"png", "webp", "tiff"}, {"png", "tiff", "ppm"}


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def picture(dtype=np.uint8, channels=3, alpha=False, size=(71, 45), profile=None):
    plane = noise(*size, dtype=dtype, seed=1) if alpha else None
    return Picture(noise(*size, channels, dtype=dtype), plane, profile)


@pytest.mark.parametrize("size", [(71, 45), (1, 1), (1, 200), (130, 1)])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "bmp", "ppm"])
def test_round_trip(tmp_path, suffix, dtype, channels, alpha, size):
    given, path = picture(dtype, channels, alpha, size), tmp_path / f"a.{suffix}"
    if (alpha and suffix not in ALPHA) or (dtype == np.uint16 and suffix not in DEEP):
        with pytest.raises(PictureError, match=r"cannot hold (alpha|16 bits): choose"):
            write(given, path)
        assert list(tmp_path.iterdir()) == []
        return
    write(given, path)
    found = read(path)
    assert found.pixels.dtype == dtype
    # WebP has no gray, and libraries read no 16-bit TIFF of gray and alpha: both become colours.
    np.testing.assert_array_equal(found.pixels, np.broadcast_to(given.pixels, found.pixels.shape))
    assert found.pixels.shape[2] == 3 or found.pixels.shape == given.pixels.shape
    if alpha:
        np.testing.assert_array_equal(found.alpha, given.alpha)
    else:
        assert found.alpha is None


def test_jpeg_stays_close(tmp_path):
    y, x = np.mgrid[0:64, 0:80]
    smooth = np.dstack([3 * y, 3 * x, y + x]).astype(np.uint8)
    write(Picture(smooth), tmp_path / "a.jpg")
    assert abs(read(tmp_path / "a.jpg").pixels.astype(int) - smooth).max() <= 6
    with pytest.raises(PictureError, match="alpha"):
        write(picture(alpha=True), tmp_path / "b.jpg")


@pytest.mark.parametrize("profile", [None, bytes(200_000)])
def test_a_jpeg_of_much_detail(tmp_path, profile):
    write(Picture(noise(1500, 1500, 3), icc_profile=profile), tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").pixels.shape == (1500, 1500, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_16_bit_tiff_as_another_library_reads_it(tmp_path, channels, alpha):
    given = picture(np.uint16, channels, alpha)
    write(given, tmp_path / "a.tiff")
    found = tifffile.imread(tmp_path / "a.tiff")
    if alpha:
        np.testing.assert_array_equal(found[..., -1], given.alpha)
        found = found[..., :-1]
    np.testing.assert_array_equal(found.reshape(71, 45, -1)[..., :channels], given.pixels)


@pytest.mark.parametrize("smooth", [False, True])
def test_16_bit_png_as_pillow_reads_it(tmp_path, smooth):
    given = picture(np.uint16, 3, True)
    if smooth:
        y, x = np.mgrid[0:71, 0:45]
        given = Picture(np.dstack([900 * y, 1400 * x, 300 * (x + y)]).astype(np.uint16))
    write(given, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("RGB" if smooth else "RGBA")
        np.testing.assert_array_equal(np.asarray(image), given.stacked() >> 8)
    if smooth:
        assert (tmp_path / "a.png").stat().st_size < given.pixels.nbytes / 4, "filters should have helped"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_the_profile_is_kept(tmp_path, suffix, dtype):
    if dtype == np.uint16 and suffix not in DEEP:
        dtype = np.uint8
    write(picture(dtype, profile=PROFILE), tmp_path / f"a.{suffix}")
    assert read(tmp_path / f"a.{suffix}").icc_profile == PROFILE


@pytest.mark.parametrize("suffix", ["ppm", "bmp"])
def test_a_profile_that_cannot_be_held_is_said(tmp_path, suffix):
    with pytest.warns(UserWarning, match=rf"a\.{suffix}.*profile"):
        write(picture(profile=PROFILE), tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("suffix", "longest"), [("png", 2**20), ("jpg", 255 * 65519), ("tiff", None), ("webp", None)]
)
def test_a_profile_is_written_as_long_as_it_is_read(tmp_path, suffix, longest, dtype):
    if dtype == np.uint16 and suffix not in DEEP:
        dtype = np.uint8
    given = picture(dtype, profile=bytes(longest or 20 * 2**20))
    write(given, tmp_path / f"a.{suffix}")
    assert read(tmp_path / f"a.{suffix}").icc_profile == given.icc_profile
    if longest:
        with pytest.warns(UserWarning, match=rf"b\.{suffix}.*profile.*{longest + 1}"):
            write(picture(dtype, profile=bytes(longest + 1)), tmp_path / f"b.{suffix}")
        assert read(tmp_path / f"b.{suffix}").icc_profile is None


@pytest.mark.parametrize(("suffix", "dtype"), [("webp", np.uint8), ("tiff", np.uint16)])
def test_gray_that_becomes_colours_loses_its_profile(tmp_path, suffix, dtype):
    gray = bytes(16) + b"GRAY" + bytes(100)
    with pytest.warns(UserWarning, match=rf"a\.{suffix}.*profile"):
        write(picture(dtype, 1, True, profile=gray), tmp_path / f"a.{suffix}")
    assert read(tmp_path / f"a.{suffix}").icc_profile is None
    write(picture(dtype, 3, True, profile=PROFILE), tmp_path / f"b.{suffix}")
    assert read(tmp_path / f"b.{suffix}").icc_profile == PROFILE
    write(picture(dtype, 1, False, profile=gray), tmp_path / "c.png")
    assert read(tmp_path / "c.png").icc_profile == gray


# Names.


def test_unknown_suffix(tmp_path):
    for name in ("a.gif", "a", "a.png.part"):
        with pytest.raises(PictureError, match=r"suffix.*\.png"):
            write(picture(), tmp_path / name)


def test_an_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "a.png"
    write(picture(), path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite"):
        write(picture(size=(5, 5)), path)
    assert path.read_bytes() == before
    write(picture(size=(5, 5)), path, overwrite=True)
    assert read(path).pixels.shape == (5, 5, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"another's")
    with pytest.raises(FileExistsError, match=r"a\.png"):
        commit(b"ours", path, overwrite=False)
    assert path.read_bytes() == b"another's"
    assert list(tmp_path.iterdir()) == [path]


def test_without_hard_links(tmp_path, monkeypatch):
    def no_links(*args):
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a.png"
    write(picture(), path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileExistsError):
        commit(b"", path, overwrite=False)


def test_a_link_keeps_pointing(tmp_path):
    target, link = tmp_path / "real.png", tmp_path / "link.png"
    write(picture(), target)
    link.symlink_to(target)
    write(picture(size=(5, 5)), link, overwrite=True)
    assert link.is_symlink()
    assert read(target).pixels.shape == (5, 5, 3)


def test_permissions_are_the_usual_ones(tmp_path):
    before = os.umask(0o027)
    try:
        write(picture(), tmp_path / "a.png")
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*folder|folder.*nowhere"):
        write(picture(), tmp_path / "nowhere" / "a.png")


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(FileExistsError, match="no file"):
        write(picture(), tmp_path / "a.png", overwrite=True)


@pytest.mark.parametrize(("suffix", "longest"), [("webp", 16383), ("jpg", 65535)])
def test_too_long_for_the_format(tmp_path, suffix, longest):
    with pytest.raises(PictureError, match=f"at most {longest}"):
        write(Picture(np.zeros((1, longest + 1, 3), np.uint8)), tmp_path / f"a.{suffix}")


# Failures on the way: nothing is left, what was there stays.


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_space(tmp_path, monkeypatch, overwrite):
    path = tmp_path / "a.png"
    if overwrite:
        path.write_bytes(b"before")
    written, real = 0, os.write

    def full(descriptor, data):
        nonlocal written
        if written > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += real(descriptor, bytes(data[:600]))
        return min(len(data), 600)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left.*a\.png") as caught:
        write(picture(), path, overwrite)
    assert caught.value.errno == errno.ENOSPC
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"before"] * overwrite


def test_the_system_refuses_more(tmp_path):
    script = (
        "import resource, sys, numpy as np\n"
        "from sr_kernels.image import Picture, write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "picture = Picture(np.random.default_rng(0).integers(0, 256, (99, 99, 3)).astype(np.uint8))\n"
        "try:\n    write(picture, sys.argv[1])\n"
        "except OSError as error:\n    print(error)\n"
    )
    path = tmp_path / "a.png"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert str(path) in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_interrupted(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(picture(), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission(tmp_path):
    folder = tmp_path / "shut"
    folder.mkdir()
    folder.chmod(0o555)
    given = picture()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        # Permissions do not bind the superuser, so the child becomes nobody.
        try:
            if os.geteuid() == 0:
                tmp = tmp_path
                while tmp != tmp.parent:
                    if not tmp.stat().st_mode & 0o001:
                        tmp.chmod(tmp.stat().st_mode | 0o011)
                    tmp = tmp.parent
                os.setuid(65534)
            write(given, folder / "a.png")
        except BaseException as error:
            os.write(send, str(error).encode())
        os._exit(0)
    os.close(send)
    os.waitpid(child, 0)
    message = os.read(receive, 10_000).decode()
    os.close(receive)
    assert "Permission denied" in message
    assert "a.png" in message
    assert list(folder.iterdir()) == []


# The Picture itself.


@pytest.mark.parametrize(
    ("pixels", "alpha", "message"),
    [
        (np.zeros((3, 4), np.uint8), None, r"\(H, W, 1\)"),
        (np.zeros((3, 4, 4), np.uint8), None, r"\(3, 4, 4\)"),
        (np.zeros((3, 4, 3), np.float32), None, "float32"),
        (np.zeros((0, 4, 3), np.uint8), None, "empty"),
        (np.zeros((3, 4, 3), np.uint8), np.zeros((4, 3), np.uint8), "alpha"),
        (np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), np.uint16), "alpha"),
    ],
)
def test_what_is_no_picture(pixels, alpha, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Picture(pixels, alpha)
