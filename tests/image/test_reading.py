# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading: every mode and depth, orientation, profiles, damage, the limit of pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from sr_kernels.image import Picture, PictureError, deep, read, write
from tests.image.png16 import chunk, png16

SIZE = (23, 37)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def same(picture, pixels, alpha=None):
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.pixels.dtype == pixels.dtype
    if alpha is None:
        assert picture.alpha is None
    else:
        np.testing.assert_array_equal(picture.alpha, alpha)
        assert picture.alpha.dtype == alpha.dtype


# Modes of eight bits.


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "ppm", "webp"])
def test_rgb(tmp_path, suffix):
    pixels = noise(*SIZE, 3)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    same(read(tmp_path / f"a.{suffix}"), pixels)


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "pgm"])
def test_gray(tmp_path, suffix):
    pixels = noise(*SIZE)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    same(read(tmp_path / f"a.{suffix}"), pixels[..., None])


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha(tmp_path, suffix, channels):
    pixels = noise(*SIZE, channels)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    same(read(tmp_path / f"a.{suffix}"), pixels[..., :-1], pixels[..., -1])


def test_jpeg_is_what_pillow_decodes(tmp_path):
    Image.fromarray(noise(*SIZE, 3)).save(tmp_path / "a.jpg")
    same(read(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp"])
def test_one_bit(tmp_path, suffix):
    bits = noise(*SIZE) > 127
    Image.fromarray(bits).save(tmp_path / f"a.{suffix}")
    same(read(tmp_path / f"a.{suffix}"), (bits * 255).astype(np.uint8)[..., None])


def test_palette_gives_its_colours(tmp_path):
    palette, index = noise(256, 3), noise(*SIZE, seed=1)
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    same(picture, palette[index])
    assert picture.mode == "P"


def test_palette_with_transparency(tmp_path):
    palette, transparency, index = noise(256, 3), noise(256, seed=2), noise(*SIZE, seed=1)
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", transparency=transparency.tobytes())
    same(read(tmp_path / "a.png"), palette[index], transparency[index])


def test_transparent_colours(tmp_path):
    pixels = noise(*SIZE, 3)
    pixels[3:5] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(1, 2, 3))
    same(read(tmp_path / "a.png"), pixels, np.where((pixels == (1, 2, 3)).all(2), 0, 255).astype(np.uint8))
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.png", transparency=1)
    same(read(tmp_path / "b.png"), pixels[..., :1], np.where(pixels[..., 0] == 1, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("profile", [None, b"no profile at all"])
@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_becomes_rgb_and_loses_its_profile(tmp_path, suffix, profile):
    image = Image.fromarray(noise(*SIZE, 4), "CMYK")
    image.save(tmp_path / f"a.{suffix}", **({"icc_profile": profile} if profile else {}))
    picture = read(tmp_path / f"a.{suffix}")
    same(picture, np.asarray(Image.open(tmp_path / f"a.{suffix}").convert("RGB")))
    assert picture.mode == "CMYK"
    assert picture.icc_profile is None


# Sixteen bits.


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_a_dark_16_bit_file_is_not_taken_for_8_bits(tmp_path, suffix):
    pixels = noise(*SIZE, dtype=np.uint16) % 200
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    same(read(tmp_path / f"a.{suffix}"), pixels[..., None])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png(tmp_path, channels, interlaced):
    pixels = noise(*SIZE, channels, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png16(pixels, interlaced))
    colours = pixels[..., : channels - (channels % 2 == 0)]
    same(read(tmp_path / "a.png"), colours, pixels[..., -1] if channels % 2 == 0 else None)


def test_16_bit_png_with_a_transparent_colour(tmp_path):
    pixels = noise(*SIZE, 3, dtype=np.uint16)
    pixels[4, 5:9] = (258, 65535, 7)
    pixels[4, 10] = (258, 65535, 8)
    (tmp_path / "a.png").write_bytes(png16(pixels, chunks=((b"tRNS", struct.pack(">3H", 258, 65535, 7)),)))
    alpha = np.full(SIZE, 65535, np.uint16)
    alpha[4, 5:9] = 0
    same(read(tmp_path / "a.png"), pixels, alpha)
    (tmp_path / "b.png").write_bytes(png16(pixels[..., :1], chunks=((b"tRNS", struct.pack(">H", 258)),)))
    gray = pixels[..., 0]
    same(read(tmp_path / "b.png"), pixels[..., :1], np.where(gray == 258, 0, 65535).astype(np.uint16))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"tile": (16, 16)},
        {"rowsperstrip": 5},
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "zlib"},
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff(tmp_path, channels, options):
    pixels = noise(*SIZE, channels, dtype=np.uint16)
    kind = {"photometric": "minisblack"} if channels == 1 else {"photometric": "rgb"}
    if channels == 4:
        kind["extrasamples"] = ["unassalpha"]
    data = pixels[..., 0] if channels == 1 else pixels
    tifffile.imwrite(tmp_path / "a.tif", data, **kind, **options)
    same(read(tmp_path / "a.tif"), pixels[..., :3], pixels[..., 3] if channels == 4 else None)


def test_16_bit_tiff_with_premultiplied_alpha(tmp_path):
    straight, alpha = noise(*SIZE, 3, dtype=np.uint16), noise(*SIZE, dtype=np.uint16, seed=3)
    alpha[:3], alpha[3:6] = 0, 65535
    multiplied = np.round(straight * (alpha[..., None] / 65535)).astype(np.uint16)
    stacked = np.dstack([multiplied, alpha])
    tifffile.imwrite(tmp_path / "a.tif", stacked, photometric="rgb", extrasamples=["assocalpha"])
    picture = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.alpha, alpha)
    np.testing.assert_array_equal(picture.pixels[3:6], straight[3:6])
    # What rounding the product lost, divided by alpha again, and the rounding of the quotient.
    slack = 0.5 * 65535 / np.maximum(alpha[6:], 1)[..., None] + 1
    assert (abs(picture.pixels[6:].astype(float) - straight[6:]) <= slack).all()


def test_16_bit_white_is_zero(tmp_path):
    pixels = noise(*SIZE, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", 65535 - pixels, photometric="miniswhite")
    same(read(tmp_path / "a.tif"), pixels[..., None])


def test_16_bit_tiff_in_planes_is_refused(tmp_path):
    planes = noise(3, *SIZE, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(PictureError, match=r"a\.tif.*planes"):
        read(tmp_path / "a.tif")


def test_12_bit_tiff_is_spread_over_16(tmp_path):
    values = np.array([[0, 1, 2048, 4095], [7, 4094, 100, 3000]])
    packed = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in values.reshape(-1, 2).tolist())
    entries = [
        (256, 4),
        (257, 2),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 2),
        (279, len(packed)),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    body = struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)
    (tmp_path / "a.tif").write_bytes(head + packed + body)
    picture = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels[..., 0], np.round(values * (65535 / 4095)))


@pytest.mark.parametrize("largest", [65535, 1000])
def test_16_bit_ppm(tmp_path, largest):
    pixels = np.minimum(noise(*SIZE, 3, dtype=np.uint16), largest)
    pixels[0] = np.arange(SIZE[1] * 3).reshape(-1, 3)
    expected = np.round(pixels * 65535.0 / largest).astype(np.uint16)
    head = f"{SIZE[1]} {SIZE[0]}\n{largest}\n"
    (tmp_path / "a.ppm").write_bytes(b"P6\n" + head.encode() + pixels.astype(">u2").tobytes())
    same(read(tmp_path / "a.ppm"), expected)
    text = " ".join(map(str, pixels.reshape(-1)))
    (tmp_path / "b.ppm").write_text(f"P3 # plain\n{head}# a remark\n{text}\n")
    same(read(tmp_path / "b.ppm"), expected)
    gray = pixels[..., 0]
    (tmp_path / "c.pgm").write_bytes(b"P5\n" + head.encode() + gray.astype(">u2").tobytes())
    same(read(tmp_path / "c.pgm"), expected[..., :1])


def test_a_ppm_value_above_its_largest_is_refused(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 1 1 1000\n" + struct.pack(">3H", 1, 1001, 2))
    with pytest.raises(PictureError, match="1001"):
        read(tmp_path / "a.ppm")


@pytest.mark.parametrize("last", ["-6", "x", "6.5", "99999999999999999999", "1001", "70000", "1" * 5000])
@pytest.mark.parametrize("largest", [200, 1000])
def test_a_plain_value_that_is_none_is_refused(tmp_path, last, largest):
    (tmp_path / "a.ppm").write_text(f"P3 2 1 {largest} 1 2 3 4 5 {last}")
    with pytest.raises(PictureError, match=r"a\.ppm"):
        read(tmp_path / "a.ppm")


@pytest.mark.parametrize("block", [1, 2, 7])
def test_a_plain_ppm_is_read_by_blocks_and_no_further(tmp_path, monkeypatch, block):
    monkeypatch.setattr(deep, "_BLOCK", block)
    text = b"P3 2 1 1000\n12 # one # 9 two\r13\n#\n#3\n14\t15 1#7\n6 170 and no more"
    (tmp_path / "a.ppm").write_bytes(text)
    expected = np.array([12, 13, 14, 15, 1, 6]) * 65535 / 1000
    np.testing.assert_array_equal(read(tmp_path / "a.ppm").pixels.reshape(-1), np.rint(expected))
    (tmp_path / "b.ppm").write_bytes(text[: text.index(b"6 170")])
    with pytest.raises(PictureError, match="5 of 6 values"):
        read(tmp_path / "b.ppm")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_cmyk_is_refused(tmp_path, compression):
    pixels = noise(*SIZE, 4, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="separated", compression=compression)
    with pytest.raises(PictureError, match=r"a\.tif.*16 bits in mode CMYK"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_other_depths_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", np.ones(SIZE, dtype))
    with pytest.raises(PictureError, match="8 or 16 bits"):
        read(tmp_path / "a.tif")


# Orientation and profile.

UPRIGHT = {  # what turns the stored pixels upright
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(noise(*SIZE, 3))
    image.save(path)
    stored = read(path).pixels
    image.save(path, exif=exif)
    same(read(path), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_of_16_bits_and_alpha(tmp_path, orientation):
    pixels = noise(*SIZE, 4, dtype=np.uint16)
    exif = Image.Exif()
    exif[274] = orientation
    data = png16(pixels, chunks=((b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")),))
    (tmp_path / "a.png").write_bytes(data)
    upright = UPRIGHT[orientation](pixels)
    same(read(tmp_path / "a.png"), upright[..., :3], upright[..., 3])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_the_profile_is_kept(tmp_path, suffix):
    Image.fromarray(noise(*SIZE, 3)).save(tmp_path / f"a.{suffix}", icc_profile=PROFILE)
    assert read(tmp_path / f"a.{suffix}").icc_profile == PROFILE


@pytest.mark.parametrize("content", [b"MM\0*\0\0", b"rubbish", b"II*\0\xff\xff\xff\xff", b""])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_means_upright(tmp_path, content):
    pixels = noise(*SIZE, 3, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png16(pixels, chunks=((b"eXIf", content),)))
    same(read(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_profile_too_long_is_left_out(tmp_path, dtype):
    profile = b"P\0\0" + zlib.compress(bytes(2**20 + 1))
    pixels = noise(*SIZE, 3, dtype=dtype)
    if dtype == np.uint16:
        data = png16(pixels, chunks=((b"gAMA", struct.pack(">I", 45455)), (b"iCCP", profile)))
    else:
        Image.fromarray(pixels).save(tmp_path / "plain.png")
        plain = (tmp_path / "plain.png").read_bytes()
        data = plain[:33] + chunk(b"iCCP", profile) + plain[33:]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.warns(UserWarning, match=r"a\.png.*profile.*left out") as caught:
        picture = read(tmp_path / "a.png")
    assert len(caught) == 1
    same(picture, pixels)
    assert picture.icc_profile is None


# What cannot be read.


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp", "ppm"])
def test_truncated(tmp_path, suffix, bits, part):
    if bits == 16 and suffix in ("jpg", "webp", "bmp"):
        bits = 8
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    write(Picture(noise(120, 90, 3, dtype=np.uint8 if bits == 8 else np.uint16)), whole)
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(PictureError, match=rf"cut\.{suffix}"):
        read(path)


def test_a_damaged_checksum_is_noticed(tmp_path):
    write(Picture(noise(*SIZE, 3)), tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(PictureError, match=r"a\.png"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"hello", "formats are"), (b"GIF89a" + b"\0" * 30, "formats are")],
)
def test_no_picture(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PictureError, match=rf"a\.png.*{message}"):
        read(tmp_path / "a.png")


def test_missing_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        read(tmp_path / "a.png")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_several_frames_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(noise(*SIZE, 3, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match="3 frames"):
        read(tmp_path / f"a.{suffix}")


def test_the_main_picture_of_a_phone_is_read(tmp_path):
    frames = [Image.fromarray(noise(*SIZE, 3, seed=i)) for i in range(2)]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
        first = np.asarray(image)
    same(read(tmp_path / "a.jpg"), first)


def bomb(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 20_000, 60_000])
def test_too_many_pixels(tmp_path, side):
    (tmp_path / "a.png").write_bytes(bomb(side, side))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(PictureError, match=r"a\.png.*max.pixels"):
        read(tmp_path / "a.png")
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_limit_can_be_raised_and_lowered(tmp_path, monkeypatch):
    pixels = noise(*SIZE, 3)
    write(Picture(pixels), tmp_path / "a.png")
    count = SIZE[0] * SIZE[1]
    with pytest.raises(PictureError, match=f"37x23 is more than the limit of {count - 1}"):
        read(tmp_path / "a.png", max_pixels=count - 1)
    same(read(tmp_path / "a.png", max_pixels=count), pixels)
    # As for a picture above Pillow's own limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for suffix in ("png", "tiff", "webp"):
        write(Picture(pixels), tmp_path / f"b.{suffix}")
        same(read(tmp_path / f"b.{suffix}", max_pixels=count), pixels)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_reading_leaves_the_file_alone(tmp_path):
    write(Picture(noise(*SIZE, 3)), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    read(tmp_path / "a.png").pixels[:] = 0
    assert (tmp_path / "a.png").read_bytes() == before
    assert io.BytesIO(before).read(4) == b"\x89PNG"
