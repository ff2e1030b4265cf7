"""What TensorBoard shows of a run."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from utils.files import writing
from utils.metrics import Row
from utils.training.layout import PROJECTED

CODE_DIMS = 64  # of a code in the projector, which keeps them as text


class Board:
    """Scalars and images of one script's run, in a TensorBoard events file.

    Args:
        folder: where the file goes, `RunFolder.board`.
        suffix: of the file's name, which tells the scripts' files apart.
        epochs_done: a resumed run hides what an interrupted one wrote after these epochs; None hides nothing.
    """

    def __init__(self, folder: Path, suffix: str, epochs_done: int | None) -> None:
        self.folder = folder
        self._hook, threading.excepthook = threading.excepthook, self._in_a_thread
        with writing(self.folder):
            purge_step = None if epochs_done is None else epochs_done + 1
            self.writer = SummaryWriter(str(folder), filename_suffix=suffix, purge_step=purge_step)

    def scalars(self, epoch: int, row: Row) -> None:
        """Every number of a row of metrics.csv; undefined ones leave a gap."""
        prefix = row["split"]
        with writing(self.folder):
            for name, value in row.items():
                if isinstance(value, int | float) and name != "epoch":
                    group = "train" if name.startswith(("loss", "lr", "time")) else prefix
                    self.writer.add_scalar(f"{group}/{name}", value, epoch)

    def image(self, epoch: int, name: str, image: Tensor) -> None:
        """Show a picture, (3,height,width) in [0,1]."""
        with writing(self.folder):
            self.writer.add_image(name, image, epoch)

    def picture(self, epoch: int, name: str, path: Path) -> None:
        """Show a picture that lies in a file."""
        with Image.open(path) as image, writing(self.folder):
            self.writer.add_image(name, np.asarray(image.convert("RGB")), epoch, dataformats="HWC")

    def codes(self, codes: np.ndarray, labels: Sequence[tuple[str, int]]) -> None:
        """Show codes (N,D) in the projector, longer ones by their first `CODE_DIMS` principal components.

        Args:
            labels: class and training images of the class, for each code.
        """
        if min(codes.shape) > CODE_DIMS:
            codes = PCA(CODE_DIMS, random_state=0).fit_transform(codes)
        with writing(self.folder):
            # what an earlier run of the script left there; add_embedding would complain on standard output
            shutil.rmtree(self.folder / PROJECTED, ignore_errors=True)
            rows = [[" ".join(name.split()), count] for name, count in labels]
            header = ["class", "training images"]
            self.writer.add_embedding(np.round(codes.astype(float), 4), rows, tag="codes", metadata_header=header)

    def flush(self) -> None:
        """Write all there is: what comes to an end between two epochs leaves nothing out."""
        with writing(self.folder):
            self.writer.flush()

    def close(self) -> None:
        """Write what is left."""
        try:
            with writing(self.folder):
                self.writer.close()
        finally:
            threading.excepthook = self._hook

    def _in_a_thread(self, args: threading.ExceptHookArgs) -> None:
        """TensorBoard raises again, in the main thread, what its own thread met: no traceback for that."""
        if not isinstance(args.exc_value, OSError):
            self._hook(args)
