"""What TensorBoard shows of a run."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from utils.device import autocast
from utils.files import unwritable
from utils.training.engine import to_device

SHOWN_IMAGES = 8


class Board:
    """Scalars and images of one script's run, in a TensorBoard events file.

    Args:
        folder: the run folder.
        suffix: of the file's name, which tells the scripts' files apart.
        epochs_done: a resumed run hides what an interrupted one wrote after these epochs.
    """

    def __init__(self, folder: Path, suffix: str, epochs_done: int) -> None:
        self.folder = folder
        self._hook, threading.excepthook = threading.excepthook, self._in_a_thread
        with self._writing():
            self.writer = SummaryWriter(str(folder), filename_suffix=suffix, purge_step=epochs_done + 1)

    def scalars(self, epoch: int, row: dict[str, Any]) -> None:
        """Every number of a row of metrics.csv; undefined ones leave a gap."""
        prefix = row["split"]
        with self._writing():
            for name, value in row.items():
                if isinstance(value, int | float) and name != "epoch":
                    group = "train" if name.startswith(("loss", "lr", "time")) else prefix
                    self.writer.add_scalar(f"{group}/{name}", value, epoch)

    @torch.inference_mode()
    def reconstructions(self, epoch: int, model: nn.Module, loader: Any, device: torch.device, amp: str) -> None:
        """Images spread over the measured split above what the decoder makes of them."""
        data = loader.dataset
        chosen = range(0, len(data), max(len(data) // SHOWN_IMAGES, 1))[:SHOWN_IMAGES]
        items = [data[index] for index in chosen]
        images = to_device(torch.stack([image for image, _, _ in items]), device)
        labels = torch.tensor([label for _, label, _ in items], device=device)
        model.eval()
        with autocast(device, amp):
            rebuilt = model.reconstructions(images, labels)
        grid = make_grid(torch.cat([images.expand_as(rebuilt), rebuilt]), nrow=len(items))
        with self._writing():
            self.writer.add_image("images above reconstructions", grid, epoch)

    def flush(self) -> None:
        """Write all there is: what comes to an end between two epochs leaves nothing out."""
        with self._writing():
            self.writer.flush()

    def close(self) -> None:
        """Write what is left."""
        with self._writing():
            self.writer.close()
        threading.excepthook = self._hook

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A full disk, which TensorBoard's thread met, as a `UserError`."""
        try:
            yield
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _in_a_thread(self, args: threading.ExceptHookArgs) -> None:
        """TensorBoard raises again, in the main thread, what its own thread met: no traceback for that."""
        if not isinstance(args.exc_value, OSError):
            self._hook(args)
