"""A look at a few images before hours of training: are their grey levels what a model can learn from?"""

import contextlib
import logging

import numpy as np
from PIL import Image

from datasets.images.files import FileDataset
from datasets.images.png import reading
from utils.errors import UserError
from utils.preprocessing import TWELVE_BITS, is_deep, of_8_bits, to_grey, to_rgb, white_level

log = logging.getLogger("dgcmm")

LOOKED_AT = 8  # images, spread over the split
DARK = 64  # of 255: below this lie 14 of 16 bits, and what a converter has squeezed


def warn_of_grey_levels(data: FileDataset, split: str) -> None:
    """Warn if a split's images are read as 12 bits, or are almost black; those that cannot be read are left out.

    Args:
        data: the images.
        split: what messages call them.
    """
    brightest, twelve = [], 0
    for row in data.rows[np.unique(np.linspace(0, len(data) - 1, LOOKED_AT).astype(int))] if len(data) else ():
        path = data.path(int(row))
        # who reads all of them names the bad ones
        with contextlib.suppress(UserError), reading(path), Image.open(path) as image:
            pixels = np.asarray(to_rgb(of_8_bits(image))) if data.colour else to_grey(image)
            brightest.append(int(pixels.max(initial=0)))
            twelve += is_deep(image) and white_level(np.asarray(image)) == TWELVE_BITS
    count = len(brightest)
    if twelve:
        log.warning(
            "%d of %d %s images looked at have 16 bits and no value above %d: read as 12 bits",
            twelve,
            count,
            split,
            TWELVE_BITS,
        )
    if brightest and max(brightest) <= DARK:
        log.warning(
            "the %s images are almost black: the brightest value of %d is %d of 255: look at how they were made",
            split,
            count,
            max(brightest),
        )
