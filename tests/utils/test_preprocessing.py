"""From images of any kind to what a model is given."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms as T

from datasets.images.opening import read_grey
from datasets.images.photo import Photo
from datasets.images.source import whole
from utils.preprocessing import RESIZES, Enlarge, Preprocessing, to_tensor, upright

NOISE = np.random.default_rng(0).integers(1, 256, (28, 28), dtype=np.uint8)  # without black


@pytest.mark.parametrize(("size", "before"), [(28, 0), (32, 2), (33, 2), (55, 13)])
def test_enlarge_pads_with_black_where_no_whole_factor_fits(size, before):
    enlarged = np.asarray(Enlarge(size)(Image.fromarray(NOISE)))
    assert enlarged.shape == (size, size)
    assert np.array_equal(enlarged[before : before + 28, before : before + 28], NOISE)
    assert np.count_nonzero(enlarged) == 28 * 28


def test_enlarge_takes_the_largest_whole_factor():
    enlarged = np.asarray(Enlarge(256)(Image.fromarray(NOISE)))
    assert enlarged.shape == (256, 256)
    rows, columns = np.nonzero(enlarged)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 253, 2, 253)  # 9 x 28 = 252


def test_enlarge_shrinks_what_is_too_large():
    assert Enlarge(16)(Image.fromarray(NOISE)).size == (16, 16)


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1)])
def test_line_of_pixels_becomes_its_middle_in_little_memory(size):
    pixels = np.zeros(size[::-1], dtype=np.uint8)
    pixels.reshape(-1)[14_990:15_010] = 200
    found = []
    original, centre = T.functional.resize, RESIZES["centre"](64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(T.functional, "resize", lambda image, *rest: found.append(image.size) or original(image, *rest))
        square = np.asarray(centre(Image.fromarray(pixels)))
    assert square.shape == (64, 64)
    assert square.min() == 200
    assert sorted(found[0]) == [1, 20]


def test_tensor_is_of_the_resized_image_cropped_at_the_centre():
    image = Image.fromarray(np.pad(np.full((2, 2), 200, np.uint8), 1))
    pixels = to_tensor(T.Resize((4, 4)), 2)(image)
    assert pixels.dtype == torch.uint8
    assert pixels.tolist() == [[[200, 200], [200, 200]]]


def test_tensor_is_of_what_the_random_transforms_make_of_the_crop():
    seen = []
    to_tensor(T.Resize((20, 20)), 12, lambda image: seen.append(image.size) or image)(Image.fromarray(NOISE))
    assert seen == [(12, 12)]


GREY = Image.fromarray(NOISE)
COLOUR = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize(("colour", "channels"), [(True, 3), (False, 1)])
@pytest.mark.parametrize(
    "image",
    [GREY, COLOUR, COLOUR.convert("P"), COLOUR.convert("RGBA"), Image.fromarray(NOISE.astype(np.uint16) * 257)],
    ids=["grey", "colour", "palette", "transparent", "16 bits"],
)
def test_image_of_any_kind_becomes_a_square_of_floats(image, colour, channels):
    prepared = Preprocessing(colour, "centre", 0, 16, 12)(image)
    assert (prepared.shape, prepared.dtype) == ((channels, 12, 12), torch.float32)
    assert 0 <= prepared.min() < 0.4 < prepared.max() <= 1


@pytest.mark.parametrize(("suffix", "turned"), [(".jpg", True), (".png", False)])
def test_grey_file_stands_as_the_training_read_it(suffix, turned, tmp_path):
    """Of a PNG, which medical images are, the training reads the pixels alone."""
    path, exif = tmp_path / f"image{suffix}", Image.Exif()
    exif[0x0112] = 6
    wide = GREY.crop((0, 0, 20, 12))
    wide.save(path, exif=exif)
    with Image.open(path) as image:
        pixels = Preprocessing(False, "stretch", 0, 10, 10).pixels(image)
    assert pixels.size == ((12, 20) if turned else (20, 12))
    np.testing.assert_array_equal(np.asarray(pixels), read_grey(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".jpg", {"quality": 95}),
        (".webp", {"lossless": True}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
    ],
)
def test_file_is_turned_once(suffix, options, orientation, tmp_path):
    """Pillow turns a TIFF by itself when it is loaded."""
    path, exif = tmp_path / f"image{suffix}", Image.Exif()
    exif[0x0112] = orientation
    COLOUR.save(path, exif=exif, **options)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(whole(Photo(path)), expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(Preprocessing(True, "stretch", 0, 10, 10).pixels(image)), expected)


@pytest.mark.parametrize("mode", ["L", "I;16"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_grey_tiff_opened_by_its_name_is_turned_as_one_in_memory(mode, orientation, tmp_path):
    """Pillow maps the first kind into memory, and swaps the sides."""
    path, exif = tmp_path / "image.tif", Image.Exif()
    exif[0x0112] = orientation
    values = np.random.default_rng(0).integers(0, 256, (9, 14)).astype(np.uint8 if mode == "L" else np.uint16)
    Image.fromarray(values).save(path, exif=exif)
    with Image.open(path) as image:
        found = np.asarray(upright(image))
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        np.testing.assert_array_equal(found, np.asarray(upright(image)))
    assert found.shape == ((14, 9) if orientation > 4 else (9, 14))


def tiff(values: np.ndarray, photometric: int) -> bytes:
    """A plain TIFF of grey values, which Pillow cannot write as negatives."""
    (height, width), bits = values.shape, 8 * values.itemsize
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height, 279: values.nbytes}
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4  # where the values are
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + values.tobytes()


@pytest.mark.parametrize("white", [0, 1])
@pytest.mark.parametrize("dtype", ["<u1", "<u2"])
def test_negative_becomes_a_positive_whatever_its_depth(dtype, white, tmp_path):
    most = np.iinfo(dtype).max
    path, grey = tmp_path / "image.tif", np.array([[0, 255], [51, 255]])
    path.write_bytes(tiff(np.array([[0, most], [most // 5, most]], dtype=dtype), photometric=white))
    expected = grey if white else 255 - grey
    np.testing.assert_array_equal(read_grey(path), expected)
    np.testing.assert_array_equal(whole(Photo(path))[:, :, 0], expected)


@pytest.mark.parametrize("orientation", range(10))
def test_image_is_turned_as_its_camera_noted(orientation):
    image = COLOUR.copy()
    image.getexif()[0x0112] = orientation
    assert np.array_equal(np.asarray(upright(image)), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [(0x0128, 2, b"x\0\0\0"), (0x011A, 2, b"72\0\0"), (0x0100, 9, struct.pack("<i", -5))],
    ids=["unit that is a text", "resolution that is a text", "width below 0"],
)
def test_photograph_with_a_damaged_tag_is_read_and_turned(tag, kind, value, tmp_path):
    entries = sorted([(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (tag, kind, 3 if kind == 2 else 1, value)])
    exif = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    COLOUR.save(tmp_path / "image.jpg", exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + exif + bytes(4))
    with Image.open(tmp_path / "image.jpg") as image, pytest.raises((struct.error, TypeError)):
        ImageOps.exif_transpose(image)
    assert whole(Photo(tmp_path / "image.jpg")).shape == (30, 20, 3)


def test_photograph_is_turned_the_right_way_up_and_its_object_left_alone():
    image = COLOUR.copy()
    image.getexif()[0x0112] = 6  # turn by 90 degrees to see it upright
    prepared = Preprocessing(True, "stretch", 0, 10, 10)(image)
    assert torch.equal(prepared, Preprocessing(True, "stretch", 0, 10, 10)(COLOUR.rotate(-90, expand=True)))
    assert image.size == COLOUR.size


def test_what_was_trained_from_a_cache_is_resized_twice():
    once, twice = (Preprocessing(False, "stretch", size, 10, 10).evaluation_transform()(GREY) for size in (0, 13))
    expected = T.PILToTensor()(T.Resize((10, 10))(T.Resize((13, 13))(GREY)))
    assert torch.equal(twice, expected)
    assert not torch.equal(once, twice)
