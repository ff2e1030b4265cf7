"""Image files of all usual kinds as 8-bit colour."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from datasets.images.opening import read_grey
from datasets.images.photo import Photo
from datasets.images.source import whole
from helpers.project import ROOT
from utils.errors import UserError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (24, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (24, 30), dtype=np.uint8)
WIDE = (GREY.astype(np.uint16) * 257).astype(np.uint16)


def saved(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    return whole(Photo(path))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "without_ending"])
def test_colour_stays(name, tmp_path):
    options = {"lossless": True} if name == "a.webp" else {"format": "png"} if "." not in name else {}
    assert np.array_equal(saved(tmp_path / name, Image.fromarray(COLOUR), **options), COLOUR)


def test_damaged_avif_under_another_name_is_named(tmp_path):
    """Pillow raises a RuntimeError."""
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOUR).save(path, format="avif")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = RNG.bytes(len(content) - start)
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.jpg cannot be read .*: replace it"):
        whole(Photo(path))


def test_first_page_of_several_is_read(tmp_path):
    pages = {"save_all": True, "append_images": [Image.fromarray(255 - COLOUR)]}
    assert np.array_equal(saved(tmp_path / "a.tif", Image.fromarray(COLOUR), **pages), COLOUR)


def test_jpeg_is_nearly_what_was_written(tmp_path):
    smooth = np.broadcast_to(np.arange(0, 240, 8, dtype=np.uint8)[None, :, None], (24, 30, 3)).copy()
    assert np.abs(saved(tmp_path / "a.jpg", Image.fromarray(smooth), quality=95).astype(int) - smooth).max() < 6


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("pixels", [GREY, WIDE], ids=["8 bits", "16 bits"])
def test_grey_becomes_three_equal_channels(pixels, ending, tmp_path):
    found = saved(tmp_path / f"a.{ending}", Image.fromarray(pixels))
    assert np.array_equal(found, np.repeat(GREY[:, :, None], 3, axis=2))


def test_twelve_bits_in_sixteen_are_scaled_whole_however_small_the_part(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 16).save(tmp_path / "a.png")
    part = Photo(tmp_path / "a.png").crop(2, 3, 4, 5)
    assert np.abs(part[:, :, 0].astype(int) - GREY[2:6, 3:8]).max() <= 1


def test_transparency_shows_white(tmp_path):
    alpha = np.full((24, 30, 1), 255, np.uint8)
    alpha[:, :10] = 0
    found = saved(tmp_path / "a.png", Image.fromarray(np.concatenate([COLOUR, alpha], axis=2)))
    assert (found[:, :10] == 255).all()
    assert np.array_equal(found[:, 10:], COLOUR[:, 10:])


@pytest.mark.parametrize("mode", ["P", "1", "LA", "CMYK"])
def test_other_modes_are_converted(mode, tmp_path):
    image = Image.fromarray(COLOUR).convert(mode)
    found = saved(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), image)
    assert np.array_equal(found, np.asarray(image.convert("RGB")))


def test_grey_multiplied_by_its_alpha(tmp_path):
    """Pillow converts its mode to LA alone."""
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:, :10] = 0
    image = Image.fromarray(np.stack([GREY * (alpha > 0), alpha], axis=2))
    found = saved(tmp_path / "a.tif", image, tiffinfo={TiffImagePlugin.EXTRASAMPLES: 1})
    assert (found[:, :10] == 255).all()
    assert np.array_equal(found[:, 10:], np.repeat(GREY[:, 10:, None], 3, axis=2))
    assert np.array_equal(read_grey(tmp_path / "a.tif")[:, 10:], GREY[:, 10:])


def test_png_with_megabytes_of_notes_is_read(tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("XML:com.adobe.xmp", "x" * 3_000_000, zip=True)
    assert np.array_equal(saved(tmp_path / "image.png", Image.fromarray(COLOUR), pnginfo=notes), COLOUR)


def test_large_image_is_read_without_a_word_and_a_larger_one_has_its_remedy(tmp_path):
    """Pillow takes images of 90 million pixels for an attack, with a warning, and refuses twice as many."""
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    code = """
import sys
from pathlib import Path
from PIL import Image
from datasets.images.opening import Photo, open_grey
from utils.errors import UserError
path = Path(sys.argv[1])
for read in (Photo, open_grey):
    Image.MAX_IMAGE_PIXELS = 24 * 30 - 1
    read(path).crop(0, 0, 24, 30)
    Image.MAX_IMAGE_PIXELS = 24 * 30 // 2 - 1
    try:
        read(path).crop(0, 0, 24, 30)
    except UserError as error:
        print(error)
"""
    words = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    reason = "Image size (720 pixels) exceeds limit of 718 pixels"
    assert (done.stdout, done.stderr) == (f"{tmp_path}/a.png cannot be read ({reason}): scale it down\n" * 2, "")


def test_part_of_an_image(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    source = Photo(tmp_path / "a.png")
    assert (source.height, source.width) == (24, 30)
    assert np.array_equal(source.crop(3, 5, 10, 7), COLOUR[3:13, 5:12])


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.bmp"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other", "missing"])
def test_damaged_file_is_named(name, damage, tmp_path):
    path = tmp_path / name
    Image.fromarray(COLOUR).save(path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "other": b"<html>"}.get(damage, content))
    if damage == "missing":
        path.unlink()
    with pytest.raises(UserError, match=rf"{path} cannot be read \(.+\): replace it"):
        whole(Photo(path))


def test_values_of_32_bits_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        saved(tmp_path / "a.tif", Image.fromarray(COLOUR[:, :, 0].astype(np.float32)))
