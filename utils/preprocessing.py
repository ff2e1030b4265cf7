"""What becomes of an image before a model sees it: 8 bits a channel, grey or colour, then a square.

Training, evaluation, prediction and whoever loads a checkpoint in code of their own prepare images by these rules.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from torch import Tensor
from torchvision import transforms as T

TWELVE_BITS, SIXTEEN_BITS = 2**12 - 1, 2**16 - 1
BACKGROUND = (255, 255, 255)  # behind what is transparent
LONGEST = 20  # times as long as wide
TURNS = {  # EXIF's orientation -> what brings the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Transform = Callable[[Image.Image], Tensor]
Resize = Callable[[Image.Image], Image.Image]


def upright(image: Image.Image) -> Image.Image:
    """Turn an image the right way up, as its camera noted in EXIF; one whose EXIF is damaged stays as it is.

    `ImageOps.exif_transpose` also writes the EXIF anew, which fails where another tag of it has a wrong type.

    Raises:
        OSError: the file is damaged.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        image.filename = ""  # else Pillow maps some into memory with their sides swapped, where EXIF turns them
    image.load()  # a TIFF is turned by that, and says so no more
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except OSError:
        raise  # the file itself
    except Exception:  # of all kinds: damaged EXIF raises nearly everything
        return image
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def to_grey(image: Image.Image) -> np.ndarray:
    """Turn an image into 8-bit grey, uint8 (h,w).

    Grey stays; colour and palette become luminance, transparency is dropped; 16-bit grey is scaled, not cut. Where none
    of its values is above 4095 it holds the 12 bits of an X-ray detector, and is scaled as such: it would be black. A
    TIFF whose 0 is white becomes a positive; of 8 bits Pillow makes it one.

    Raises:
        ValueError: it has more than 16 bits, or negative values.
    """
    image = with_plain_alpha(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Pillow warns of RGB where a palette has transparent colours
    if is_deep(image):
        values = np.asarray(image, dtype=np.float64)
        if values.min(initial=0) < 0:
            raise ValueError("it has negative values")
        if image.mode == "F" or values.max(initial=0) > SIXTEEN_BITS:
            raise ValueError("more than 16 bits")
        grey = (values / (white_level(values) / 255)).round().astype(np.uint8)
        return 255 - grey if is_negative(image) else grey
    return np.asarray(image if image.mode == "L" else image.convert("L"))


def with_plain_alpha(image: Image.Image) -> Image.Image:
    """Undo the multiplication of grey by its alpha, as some TIFFs have it; Pillow converts no such image further."""
    return image.convert("LA") if image.mode == "La" else image


def is_deep(image: Image.Image) -> bool:
    """Tell whether an image has one channel of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def is_negative(image: Image.Image) -> bool:
    """Tell whether an image is a TIFF in which 0 stands for white."""
    return getattr(image, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def white_level(values: np.ndarray) -> int:
    """Tell the largest value that the pixels of a 16-bit image can have: of 12 bits where they fit into those."""
    return TWELVE_BITS if values.max(initial=0) <= TWELVE_BITS else SIXTEEN_BITS


def of_8_bits(image: Image.Image) -> Image.Image:
    """Turn an image of one channel of more bits into 8-bit grey, as `to_grey` does; any other stays as it is.

    Raises:
        ValueError: it has more than 16 bits, or negative values.
    """
    return Image.fromarray(to_grey(image)) if is_deep(image) else image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of 8 bits to RGB, over `BACKGROUND`."""
    image = with_plain_alpha(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
    return image.convert("RGB")


def stretch(size: int) -> Resize:
    """Resize to (size, size), whatever the shape was."""
    return T.Resize((size, size))


def centre(size: int) -> Resize:
    """Resize so that the shorter side is `size`, and keep the central square, as is usual for photographs."""
    return T.Compose([cut_ends, T.Resize(size), T.CenterCrop(size)])


def cut_ends(image: Image.Image) -> Image.Image:
    """Keep the middle of an image far longer than wide: resized whole, a line of pixels would fill the memory."""
    longest = LONGEST * min(image.size)
    if max(image.size) <= longest:
        return image
    return T.CenterCrop((min(image.height, longest), min(image.width, longest)))(image)


class Enlarge:
    """Enlarge a small image by the largest whole factor that fits into `size`, and pad the rest with black.

    Pixels stay what they were: 28 becomes 32 by padding alone, and 256 by a factor of 9 and 2 pixels of padding.

    Args:
        size: pixels of a side.
        shrink: makes an image (size, size) that is too large for that.
    """

    def __init__(self, size: int, shrink: Callable[[int], Resize] = stretch) -> None:
        self.size, self.shrink = size, shrink(size)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Enlarge a PIL image of any size to (size, size)."""
        factor = self.size // max(image.size)
        if factor == 0:
            return self.shrink(image)
        if factor > 1:
            image = image.resize((image.width * factor, image.height * factor), Image.Resampling.BILINEAR)
        spare = (self.size - image.width, self.size - image.height)
        border = (spare[0] // 2, spare[1] // 2, spare[0] - spare[0] // 2, spare[1] - spare[1] // 2)
        return ImageOps.expand(image, border)


# how an image becomes a square one: for the evaluation, and for a cache
RESIZES: dict[str, Callable[[int], Resize]] = {
    "stretch": stretch,
    "centre": centre,
    "pad": Enlarge,
    "pad or centre": partial(Enlarge, shrink=centre),
}


def to_tensor(resize: Resize, crop_size: int, *random: Callable) -> T.Compose:
    """Compose `resize`, centre crop, `random` transforms if any: PIL image -> uint8 (C, crop_size, crop_size)."""
    return T.Compose([resize, T.CenterCrop(crop_size), *random, T.PILToTensor()])


class Preprocessing(NamedTuple):
    """How images are prepared for a model, as its checkpoint says it; plain values.

    Attributes:
        colour: images have three channels, else one.
        resize: how they become square, a key of `RESIZES`.
        cache_size: side that they are resized to first, as in the cache that the training read; 0 for no cache.
        new_size, crop_size: what they are resized to, and the side of the crop, in pixels.
    """

    colour: bool
    resize: str
    cache_size: int
    new_size: int
    crop_size: int

    def pixels(self, image: Image.Image) -> Image.Image:
        """Convert an image of any kind to mode RGB or L, the right way up as its camera says; a grey PNG as it is.

        Raises:
            ValueError: it has more than 16 bits, or negative values.
        """
        if not self.colour:
            return Image.fromarray(to_grey(image if image.format == "PNG" else upright(image)))
        return to_rgb(of_8_bits(upright(image)))

    def evaluation_transform(self) -> T.Compose:
        """Make the transform of an image of mode RGB or L to uint8 (1 or 3, crop_size, crop_size)."""
        resize = RESIZES[self.resize]
        steps = [resize(self.cache_size)] if self.cache_size else []
        return T.Compose([*steps, to_tensor(resize(self.new_size), self.crop_size)])

    def __call__(self, image: Image.Image) -> Tensor:
        """Prepare an image of any kind: float32 (1 or 3, crop_size, crop_size) in [0,1].

        Raises:
            ValueError: it has more than 16 bits, or negative values.
        """
        return self.evaluation_transform()(self.pixels(image)).float().div_(255)
