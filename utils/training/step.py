"""What stands between a backward pass and the weights: stop, finite, clip, step."""

import logging
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from utils.distributed.world import Vote, World
from utils.errors import UserError

log = logging.getLogger("dgcmm")

SHOWN_IDS = 8
LOWEST_SCALE = 2.0**-10  # of a loss in float16, which begins at 2^16


class _Step(NamedTuple):
    """What there is to know of a step: on a GPU it may not have been computed yet."""

    number: int
    indices: Tensor
    flag: Tensor  # (), whether its loss or its gradient is not finite
    arrival: torch.cuda.Event | None = None  # of the flag on the host

    @property
    def bad(self) -> bool:
        if self.arrival is not None:
            self.arrival.synchronize()
        return bool(self.flag)


class Guard:
    """Takes optimizer steps such that a loss or a gradient that is not finite reaches no weight, in any process.

    The processes agree once per step, by one small all-reduce that runs while the gradients are computed: on
    stopping, and on whether a loss was finite. On a CPU a bad loss is seen in its own step. On a GPU reading it would
    wait for the device, so the optimizer itself skips the step (torch's `found_inf`) and the host learns of it a step
    later; averaged gradients are the same in all processes, so all skip.

    Args:
        model: the DGCMM; the gradient of its prior is of another scale than the network's and is not clipped.
        optimizer: SGD; a fused one where `late` is set.
        clip_grad: norm that the network's gradient is clipped to, 0 for no clipping.
        epoch: for messages.
        world: the processes.
        scaler: of the loss in float16. It skips a step whose gradient overflows in any process, and lowers the scale;
            that is no fault until the scale is below `LOWEST_SCALE`.
        late: read a step's flag only in the next one; default: on a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip_grad: float,
        epoch: int,
        world: World,
        scaler: GradScaler | None = None,
        late: bool | None = None,
    ) -> None:
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self.optimizer, self.clip_grad, self.epoch, self.world = optimizer, clip_grad, epoch, world
        named = list(model.named_parameters())
        self.network = [value for name, value in named if not name.startswith("prior.")]
        self.prior = [value for name, value in named if name.startswith("prior.")]
        self.late = world.device.type == "cuda" if late is None else late
        self._unread: _Step | None = None
        self._current: _Step | None = None
        self._vote: Vote | None = None

    def begin(self, loss: Tensor, step: int, indices: Tensor) -> None:
        """Look at the loss of a step, before its backward pass."""
        self._current = _Step(step, indices, ~torch.isfinite(loss.detach()))
        self._vote = self.world.vote(bad=self._suspect is not None and self._suspect.bad)

    def backward(self, loss: Tensor) -> None:
        """The backward pass of a step."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    @property
    def _suspect(self) -> _Step | None:
        """The step whose flag can be read without waiting for the work that has just been queued."""
        return self._unread if self.late else self._current

    def step(self) -> int:
        """Take the optimizer step, if all is finite; returns the signal that asks the run to stop, or 0.

        Raises:
            UserError: something is not finite; no weight has been changed by it.
        """
        signum, bad = self._vote.result()
        if bad:
            self._fail(self._suspect)
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        overflow = ~torch.isfinite(self._clip())
        current = self._current if self.scaler else self._current._replace(flag=self._current.flag | overflow)
        if self.late:
            self.optimizer.found_inf = current.flag.float()
            self._unread = _on_its_way(current)
        elif current.bad:
            self._fail(current)
        if self.scaler:  # a loss that is not finite has a gradient that is not
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        return signum

    def settle(self) -> None:
        """Make sure that every step so far was finite, before the weights are saved or measured."""
        if self._unread is not None:
            _, bad = self.world.vote(bad=self._unread.bad).result()
            if bad:
                self._fail(self._unread)
            self._unread = None
        if self.scaler and self.scaler.get_scale() < LOWEST_SCALE:
            raise UserError(
                f"--amp fp16: the gradient overflows however small the loss is made (epoch {self.epoch + 1}): give "
                "--amp bf16, or lower --lr"
            )

    def _clip(self) -> Tensor:
        """Clip the network's gradient; returns the norm of all gradients, which tells whether they are finite."""
        network = [value.grad for value in self.network if value.grad is not None]
        prior = [value.grad for value in self.prior if value.grad is not None]
        norm = get_total_norm(network)
        if self.clip_grad:
            clip_grads_with_norm_([value for value in self.network if value.grad is not None], self.clip_grad, norm)
        return norm + get_total_norm(prior) if prior else norm

    def _fail(self, step: _Step) -> None:
        """Say where it happened; all processes come here in the same step."""
        told = self.world.gather((step.bad, step.indices.tolist()[:SHOWN_IDS]))
        rank, ids = next(((rank, ids) for rank, (bad, ids) in enumerate(told) if bad), (0, []))
        if not self.world.is_main:
            raise SystemExit(2)
        where = f"epoch {self.epoch + 1}, step {step.number + 1}, rank {rank}, images {ids}, ..."
        raise UserError(
            f"the loss or its gradient is not finite ({where}): lower --lr or --clip-grad; no weight was changed by "
            "it, and the last checkpoint is as it was"
        )


def _on_its_way(step: _Step) -> _Step:
    """The step with its flag being copied to the host; nothing waits for it here."""
    if step.flag.device.type == "cpu":
        return step
    flag = torch.empty_like(step.flag, device="cpu", pin_memory=True).copy_(step.flag, non_blocking=True)
    arrival = torch.cuda.Event()
    arrival.record()
    return step._replace(flag=flag, arrival=arrival)
