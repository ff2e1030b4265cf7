"""PNG files as 8-bit grey: every mode, every kind of damage, and no row more than is asked for."""

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.images.opening import open_grey, read_grey
from datasets.images.png import SIGNATURE
from utils.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)


def png(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def by_hand(size: int, rows: bytes, interlaced: bool) -> bytes:
    """A grey PNG of size x size with these compressed rows, right or wrong."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = size.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, interlaced])
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_every_8_bit_mode_becomes_its_luminance(mode, tmp_path):
    grey = Image.fromarray(GREY if mode != "1" else np.where(GREY > 127, 255, 0).astype(np.uint8))
    path = tmp_path / "image.png"
    path.write_bytes(png(grey.convert(mode)))
    assert np.array_equal(read_grey(path), np.asarray(grey))


def test_colour_and_a_colour_palette_become_the_same_luminance(tmp_path):
    colour = Image.fromarray(np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    for name, image in {"colour.png": colour, "palette.png": colour.quantize(256)}.items():
        (tmp_path / name).write_bytes(png(image))
        assert np.array_equal(read_grey(tmp_path / name), image.convert("RGB").convert("L"))


def test_palette_with_transparent_colours_is_read_without_a_warning(tmp_path):
    image = Image.fromarray(GREY).convert("P")
    (tmp_path / "image.png").write_bytes(png(image, transparency=bytes([0, 128])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_grey(tmp_path / "image.png"), GREY)


def test_damage_of_a_png_under_another_name_is_found(tmp_path):
    content = bytearray(png(Image.fromarray(GREY)))
    (tmp_path / "a.jpg").write_bytes(content)
    assert np.array_equal(read_grey(tmp_path / "a.jpg"), GREY)
    content[-8] ^= 1  # in the last checksum, which Pillow does not look at
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match="cut off or damaged"):
        read_grey(tmp_path / "a.jpg")


def test_picture_of_a_camera_held_askew(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.fromarray(GREY).save(tmp_path / "a.webp", exif=exif, lossless=True)
    assert np.array_equal(read_grey(tmp_path / "a.webp"), np.rot90(GREY, -1))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_what_is_no_image_is_said_alike_in_every_run(content, tmp_path):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jpg cannot be read \(it is no image of a known format\): replace it"):
        read_grey(tmp_path / "a.jpg")


def test_transparency_is_dropped(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png(Image.fromarray(np.dstack([GREY, GREY, GREY, np.zeros_like(GREY)]))))
    assert np.array_equal(read_grey(path), GREY)


def test_16_bits_are_scaled_not_cut(tmp_path):
    values = np.array([[0, 257, 30000], [128 * 257, 65000, 65535]], dtype=np.uint16)
    path = tmp_path / "image.png"
    path.write_bytes(png(Image.fromarray(values)))
    assert read_grey(path).tolist() == [[0, 1, 117], [128, 253, 255]]


def test_12_bits_in_16_keep_their_contrast_in_every_part(tmp_path):
    values = np.array([[0, 16, 1000], [2056, 4000, 4095]], dtype=np.uint16)
    path = tmp_path / "image.png"
    path.write_bytes(png(Image.fromarray(values)))
    assert read_grey(path).tolist() == [[0, 1, 62], [128, 249, 255]]
    assert open_grey(path).crop(0, 1, 1, 2).tolist() == [[1, 62]]
    path.write_bytes(png(Image.fromarray(np.where(values == 4095, 4096, values).astype(np.uint16))))
    assert read_grey(path).tolist() == [[0, 0, 4], [8, 16, 16]]
    assert open_grey(path).crop(0, 1, 1, 2).tolist() == [[0, 4]]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("kept", [0, 7, 40, 0.5, 0.9])
@pytest.mark.parametrize("filler", [b"", b"\0"], ids=["cut", "zeros"])
def test_damaged_image_is_named(mode, kept, filler, tmp_path):
    image = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(GREY).convert(mode)
    content = png(image)
    kept = kept if isinstance(kept, int) else int(kept * len(content))
    path = tmp_path / "00000001_000.png"
    path.write_bytes(content[:kept] + filler * (len(content) - kept))
    with pytest.raises(UserError, match=rf"{path} cannot be read \(.+\): replace it"):
        read_grey(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_wrong_bit_never_changes_the_pixels_silently(tmp_path):
    content = png(Image.fromarray(GREY))
    path = tmp_path / "image.png"
    found = 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        try:
            assert np.array_equal(read_grey(path), GREY), position
        except UserError:
            found += 1
    assert found > 0.9 * len(content)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
def test_part_of_an_image_is_that_part_of_the_whole(mode, tmp_path):
    image = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(GREY).convert(mode)
    path = tmp_path / "image.png"
    path.write_bytes(png(image))
    source, everything = open_grey(path), read_grey(path)
    assert (source.height, source.width) == everything.shape
    for top, left, height, width in [(0, 0, 12, 12), (0, 0, 1, 1), (3, 2, 5, 10), (11, 11, 1, 1)]:
        assert np.array_equal(
            source.crop(top, left, height, width), everything[top : top + height, left : left + width]
        )


def test_rows_below_the_part_are_not_decoded(tmp_path):
    """What lies below cannot be inflated, though its checksum is right."""
    image = np.random.default_rng(1).integers(0, 256, (400, 400), dtype=np.uint8)
    rows = bytearray(zlib.compress(np.pad(image, ((0, 0), (1, 0))).tobytes()))
    rows[120_000:150_000] = bytes(30_000)
    path = tmp_path / "image.png"
    path.write_bytes(by_hand(400, bytes(rows), interlaced=False))
    assert np.array_equal(open_grey(path).crop(0, 0, 200, 400), image[:200])
    with pytest.raises(UserError, match=rf"{path} cannot be read"):
        read_grey(path)


def test_every_filter_is_undone_as_pillow_does_it(tmp_path):
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 256, (300, 1 + 300), dtype=np.uint8)
    rows[:, 0] = rng.permutation(np.arange(300) % 5)
    content = by_hand(300, zlib.compress(rows.tobytes()), interlaced=False)
    path = tmp_path / "image.png"
    path.write_bytes(content)
    assert np.array_equal(read_grey(path), np.asarray(Image.open(io.BytesIO(content))))
    assert np.array_equal(open_grey(path).crop(10, 20, 33, 44), read_grey(path)[10:43, 20:64])


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((9, 11), np.uint8).tobytes(),  # one is lacking
        np.zeros((10, 11), np.uint8).tobytes()[:-1],
        np.full((10, 11), 5, np.uint8).tobytes(),  # no such filter
    ],
    ids=["a row", "a byte", "a filter"],
)
def test_rows_that_are_not_as_the_header_says_are_named(rows, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(by_hand(10, zlib.compress(rows), interlaced=False))
    with pytest.raises(UserError, match=rf"{path} cannot be read \(.+\): replace it"):
        read_grey(path)


def test_image_that_would_fill_the_memory_is_named(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(by_hand(2**17, zlib.compress(bytes(10)), interlaced=False))
    with pytest.raises(UserError, match="pixels"):
        read_grey(path)


def test_interlaced_image_is_decoded_whole(tmp_path):
    path = tmp_path / "image.png"
    passes = zlib.compress(bytes([0, 10, 0, 20, 0, 30, 40]))  # the first, sixth and seventh of Adam7
    path.write_bytes(by_hand(2, passes, interlaced=True))
    assert open_grey(path).crop(0, 0, 1, 2).tolist() == [[10, 20]]
    assert read_grey(path).tolist() == [[10, 20], [30, 40]]


@pytest.mark.parametrize(
    "content", [b"", b"<html>", png(Image.fromarray(GREY))[:7]], ids=["empty", "page", "signature"]
)
def test_what_is_no_png_is_named(content, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path} cannot be read \(no PNG\): replace it"):
        read_grey(path)


def test_jpeg_under_the_name_of_a_png_is_refused(tmp_path: Path):
    path = tmp_path / "image.png"
    Image.fromarray(GREY).save(path, "JPEG")
    with pytest.raises(UserError, match="no PNG"):
        read_grey(path)
