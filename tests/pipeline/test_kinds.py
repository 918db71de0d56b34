# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every kind of image in, the same kind out; channels; what is refused; what is left untouched."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from skimage.color import rgb2ycbcr, ycbcr2rgb
from torch import nn

import sr_kernels
from sr_kernels import models
from sr_kernels.image import Picture
from sr_kernels.image.colour import bicubic_enlarge
from sr_kernels.pipeline import upscale
from tests.pipeline.networks import Described, Exact, Nearest, grid, noise


def repeated(array, scale=2):
    return array.repeat(scale, axis=0).repeat(scale, axis=1)


def test_it_is_at_the_door():
    assert sr_kernels.upscale is upscale


# Kinds.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(31, 27), (31, 27, 1), (31, 27, 3), (1, 1, 3)])
def test_arrays(shape, dtype):
    image = noise(*shape, dtype=np.dtype(dtype).type).astype(dtype)
    before = image.copy()
    found = upscale(image, Nearest())
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    if found.dtype.kind == "u":
        np.testing.assert_array_equal(found, repeated(image))
    else:  # computed in float32 at least
        np.testing.assert_allclose(found, repeated(image), rtol=2**-22)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_of_arrays_is_bicubic(channels, dtype):
    image = noise(31, 27, channels, dtype=dtype)
    found = upscale(image, Nearest(), tile=13)
    np.testing.assert_array_equal(found[..., :-1], repeated(image[..., :-1]))
    full = np.iinfo(dtype).max
    alpha = bicubic_enlarge(torch.from_numpy(image[..., -1] / full).float()[None, None], 2)[0, 0].numpy()
    expected = np.round(alpha.clip(0, 1).astype(np.float64) * full)
    # The same float32 values up to the rounding of the division by full scale.
    assert abs(found[..., -1].astype(np.float64) - expected).max() <= 1


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::-1, ::2],
        lambda a: a.swapaxes(0, 1),
        lambda a: a[3:20, 5:18],
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: np.asfortranarray(a),
    ],
)
def test_views(view):
    image = view(noise(31, 27, 3))
    np.testing.assert_array_equal(upscale(image, Nearest(), tile=9), repeated(image))


def test_a_read_only_array():
    image = noise(31, 27, 3)
    image.flags.writeable = False
    np.testing.assert_array_equal(upscale(image, Nearest()), repeated(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_pil_modes(mode):
    result = {"1": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}.get(mode, mode)
    if mode == "I;16":
        image = Image.fromarray(noise(31, 27, dtype=np.uint16))
    else:
        image = Image.fromarray(noise(31, 27, 4 if mode in ("LA", "RGBA") else 3)).convert(mode)
    found = upscale(image, Nearest())
    assert isinstance(found, Image.Image)
    assert (found.mode, found.size) == (result, (54, 62))
    colours = np.asarray(found.convert("RGB") if result == "RGBA" else found)
    expected = np.asarray(image.convert("RGB") if result in ("RGB", "RGBA") else image.convert(result))
    if result == "LA":
        colours, expected = colours[..., 0], expected[..., 0]
    np.testing.assert_array_equal(colours, repeated(expected))


def test_pil_keeps_profile_and_exif():
    image = Image.fromarray(noise(9, 9, 3))
    image.info.update(icc_profile=b"profile", exif=b"exif")
    found = upscale(image, Nearest())
    assert found.info["icc_profile"] == b"profile"
    assert found.info["exif"] == b"exif"


def test_pictures():
    picture = Picture(noise(9, 7, 3, dtype=np.uint16), noise(9, 7, dtype=np.uint16), b"profile", "RGBA;16")
    found = upscale(picture, Nearest())
    np.testing.assert_array_equal(found.pixels, repeated(picture.pixels))
    assert found.alpha.shape == (18, 14)
    assert (found.icc_profile, found.mode) == (b"profile", "RGBA;16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 31, 27), (2, 3, 31, 27), (1, 31, 27)])
def test_tensors(shape, dtype):
    image = grid(*shape).to(dtype)
    before = image.clone()
    found = upscale(image, Nearest(), tile=13, batch=2)
    assert found.dtype == dtype
    whole = image if image.dim() == 4 else image[None]
    expected = F.interpolate(whole.double(), scale_factor=2).to(dtype)
    assert torch.equal(found, expected if image.dim() == 4 else expected[0])
    assert torch.equal(image, before)


def test_a_tensor_with_gradient_and_of_any_layout():
    image = grid(2, 3, 20, 16).to(memory_format=torch.channels_last).requires_grad_()
    found = upscale(image, Nearest())
    assert not found.requires_grad
    assert torch.equal(found, F.interpolate(image.detach(), scale_factor=2))
    found.requires_grad_()  # no inference tensor


# Channels.


def test_gray_through_a_model_of_colours():
    image = grid(1, 40, 30)
    model = Described()
    with torch.no_grad():
        expected = model(image.expand(3, -1, -1)[None]).mean(1)
    torch.testing.assert_close(upscale(image, model), expected, atol=0, rtol=2**-22)


class LumaNearest(Nearest):
    """Of one channel."""

    def __init__(self):
        super().__init__()
        self.in_channels = self.out_channels = 1


def test_colours_through_a_model_of_luma():
    image = noise(30, 40, 3, dtype=np.float64)
    found = upscale(image, LumaNearest(), tile=11)
    ycbcr = rgb2ycbcr(image)
    luma = repeated(ycbcr[..., :1])
    chroma = bicubic_enlarge(torch.from_numpy(ycbcr[..., 1:]).permute(2, 0, 1)[None], 2)[0]
    larger = np.dstack([luma, chroma.permute(1, 2, 0).numpy()])
    # scikit-image clips nothing for floats; chroma passes through float32 here.
    np.testing.assert_allclose(found, ycbcr2rgb(larger), atol=1e-6)


@pytest.mark.parametrize("tile", [None, 13])
def test_a_gray_picture_is_the_same_as_equal_colours(tile):
    model = models.create("espcn", scale=2)
    gray = noise(40, 30, 1)
    colours = np.repeat(gray, 3, axis=2)
    found = upscale(gray, model, tile=tile).astype(int)
    assert abs(found - upscale(colours, model, tile=tile)).max() <= 1


def test_a_tensor_is_taken_as_it_is_by_a_model_of_one_channel():
    image = grid(1, 20, 30)
    assert torch.equal(upscale(image, LumaNearest()), F.interpolate(image[None], scale_factor=2)[0])


# Modules that say nothing of themselves.


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_scale_and_channels_are_found_out(scale, channels):
    image = grid(channels, 20, 16)
    model = Exact(scale, channels)
    with torch.no_grad():
        assert torch.equal(upscale(image, model), model(image[None])[0])


def test_the_module_is_left_as_it_was():
    class Normalised(Exact):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.drop = nn.Dropout(0.5)
            self.norm.eval()

        def forward(self, x):
            assert not self.drop.training
            assert not torch.is_grad_enabled()
            return super().forward(self.drop(self.norm(x)))

    model = Normalised().train()
    model.norm.eval()
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for dtype in (None, "bfloat16"):
        upscale(noise(20, 20, 3), model, dtype=dtype)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) and v.dtype == state[k].dtype for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_modes_are_restored_after_an_error():
    class Failing(Described):
        def forward(self, x):
            raise RuntimeError("no")

    model = Failing().train()
    with pytest.raises(RuntimeError, match="no"):
        upscale(noise(20, 20, 3), model)
    assert all(m.training for m in model.modules())


# Which model.


def test_a_checkpoint_by_its_path(tmp_path):
    model = models.create("srvgg", scale=3, num_feat=16, num_conv=2)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    image = noise(20, 24, 3)
    expected = upscale(image, model)
    for path in (tmp_path / "weights.safetensors", str(tmp_path / "weights.safetensors")):
        assert (upscale(image, path) == expected).all()


def test_what_a_checkpoint_leaves_open_is_given(tmp_path):
    path = tmp_path / "fsrcnn.safetensors"
    model = models.create("fsrcnn", scale=3)
    save_file(model.state_dict(), path)
    image = noise(20, 24, 3)
    assert (upscale(image, path, 3) == upscale(image, model)).all()
    assert (upscale(image, path, options={"scale": "3"}) == upscale(image, model)).all()
    with pytest.raises(ValueError, match="scale"):
        upscale(image, path)
    model = models.create("srvgg", scale=2, num_feat=16, num_conv=2, activation="relu")
    save_file(model.state_dict(), path)
    assert (upscale(image, path, options={"activation": "relu"}) == upscale(image, model)).all()
    with pytest.raises(ValueError, match=r"scale=3 was asked, the weights have scale=2"):
        upscale(image, path, 3, options={"activation": "relu"})
    for given in (None, "compact", model):
        with pytest.raises(ValueError, match="options"):
            upscale(image, given, options={"activation": "relu"})


def test_the_embedded_models():
    image = noise(20, 24, 3)
    assert upscale(image).shape == (40, 48, 3)
    assert (upscale(image, "compact") == upscale(image)).all()
    assert upscale(image, scale=4).shape == (80, 96, 3)
    with pytest.raises(ValueError, match=r"scale.*7.*2, 4"):
        upscale(image, scale=7)


def test_another_scale_than_the_models():
    with pytest.raises(ValueError, match=r"scale is 3, the model enlarges 2x: pass scale=2"):
        upscale(noise(9, 9, 3), Nearest(), 3)


def test_unknown_models(tmp_path):
    image = noise(9, 9, 3)
    with pytest.raises(FileNotFoundError, match="weights.pth"):
        upscale(image, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="architecture without weights"):
        upscale(image, "edsr")
    with pytest.raises(ValueError, match="'nonesuch' is not known"):
        upscale(image, "nonesuch")
    with pytest.raises(TypeError, match="model must be"):
        upscale(image, 3)


# Bad input.


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([[1, 2]], TypeError, "image must be .*list"),
        (np.zeros((4, 4, 3), np.int32), TypeError, "image is an array of int32"),
        (np.zeros((4, 4, 3), bool), TypeError, "image is an array of bool"),
        (np.zeros((4, 4, 5), np.uint8), ValueError, "5 channels"),
        (np.zeros((4,), np.uint8), ValueError, r"shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "nothing empty"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), TypeError, "torch.uint8"),
        (np.zeros((4, 4, 3), np.longdouble), TypeError, "image is an array of float(128|96)"),
        (torch.zeros(3, 4, 4, device="meta"), ValueError, "image is .* meta"),
        (torch.zeros(4, 4), ValueError, r"\(4, 4\)"),
        (torch.zeros(2, 3, 0, 4), ValueError, "nothing empty"),
        (torch.zeros(5, 4, 4), ValueError, "5 channels"),
        (Image.new("F", (4, 4)), ValueError, "'F'"),
    ],
)
def test_images_that_are_none(image, error, message):
    with pytest.raises(error, match=message):
        upscale(image, Nearest())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tile": 0}, ValueError, "tile is 0; give a positive integer"),
        ({"tile": 2.5}, TypeError, "tile is 2.5; give an integer"),
        ({"tile": True}, TypeError, "tile"),
        ({"halo": -1}, ValueError, "halo"),
        ({"batch": 0}, ValueError, "batch"),
        ({"scale": -2}, ValueError, "scale"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of float32"),
        ({"dtype": torch.float64}, ValueError, "dtype"),
        ({"backend": "quantum"}, ValueError, "backend"),
        ({"device": "banana"}, ValueError, "device is 'banana'"),
        ({"device": "meta"}, ValueError, "device is 'meta'"),
        ({"device": 3}, TypeError, "device must be"),
        ({"scale": np.float64(2)}, TypeError, "scale"),
        ({"scale": np.int64(0)}, ValueError, "scale is 0"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        upscale(noise(9, 9, 3), Nearest(), **options)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x[:, :, ::2, ::2], "no enlargement"),
        (lambda x: F.interpolate(x, scale_factor=1.5), "no enlargement"),
        (lambda x: F.interpolate(x, scale_factor=(2, 3)), "no enlargement"),
        (lambda x: x.repeat(1, 2, 1, 1), "takes 3 channels and gives 6"),
        (lambda x: x.mean(), "no enlargement"),
        (lambda x: [x], "list"),
        (lambda x: 1 / 0 if x.shape[1] == 0 else F.conv2d(x, torch.zeros(4, 7, 1, 1)), "takes neither 3"),
    ],
)
def test_modules_that_enlarge_nothing(forward, message):
    class Module(nn.Module):
        def forward(self, x):
            return forward(x)

    with pytest.raises(ValueError, match=message):
        upscale(noise(9, 9, 3), Module())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    for device in ("cuda", "cuda:1", torch.device("cuda")):
        with pytest.raises(ValueError, match=r"device is 'cuda.*'cpu'"):
            upscale(noise(9, 9, 3), Nearest(), device=device)


def test_integers_of_numpy():
    image = noise(30, 30, 3)
    found = upscale(image, Nearest(), np.int64(2), tile=np.int32(9), halo=np.uint8(1), batch=np.int64(2))
    np.testing.assert_array_equal(found, repeated(image))
    assert upscale(image, scale=np.int64(2)).shape == (60, 60, 3)


def test_a_model_without_values():
    with pytest.raises(ValueError, match="model .* meta"):
        upscale(noise(9, 9, 3), Described().to("meta"))


def test_a_model_that_describes_itself_in_part():
    model = Nearest()
    del model.scale, model.input_multiple
    with pytest.raises(ValueError, match=r"model, a Nearest.*not scale, input_multiple"):
        upscale(noise(9, 9, 3), model)


def test_a_model_that_gives_another_size_than_it_says():
    class Liar(Nearest):
        def forward(self, x):
            return F.interpolate(x, scale_factor=3)

    with pytest.raises(ValueError, match=r"model gave \(1, 3, 27, 27\).*\(1, 3, 18, 18\) was expected"):
        upscale(noise(9, 9, 3), Liar())


def test_the_backend_that_is_asked_for_runs():
    from sr_kernels.backends import record_kernels

    model = models.create("srvgg", scale=2, num_feat=16, num_conv=1)
    with record_kernels() as kernels:
        upscale(noise(20, 20, 3), model, backend="torch")
    assert kernels
    assert all(k.startswith("torch/") for k in kernels)


@pytest.mark.parametrize("scale", [2, 4])
def test_the_embedded_models_have_names_of_their_own(scale):
    from sr_kernels.pipeline import resolve_model

    assert resolve_model(f"compact_x{scale}").scale == resolve_model("compact", scale).scale == scale
