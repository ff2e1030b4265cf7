"""One optimizer step: backward pass, agreement of all processes, clipping, and the step if all is finite."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from utils.distributed.world import World
from utils.errors import UserError
from utils.training.optimisation import KEPT, calmer

SHOWN_IDS = 8
LOWEST_SCALE = 2.0**-10  # of a loss in float16, which begins at 2^16


class _Flag(NamedTuple):
    """Whether a step was bad: on a GPU that may not have been computed yet."""

    where: str
    ids: Tensor
    bad: Tensor  # (2,), whether its loss, and whether its gradient is not finite
    arrival: torch.cuda.Event | None = None  # of the flag on the host

    def read(self) -> tuple[bool, bool]:
        if self.arrival is not None:
            self.arrival.synchronize()
        loss, gradient = self.bad.tolist()
        return loss, gradient


class Stepper:
    """Takes optimizer steps such that a loss or a gradient that is not finite reaches no weight, in any process.

    The processes agree once per step, by one small all-reduce that runs while the gradients are computed: on
    stopping, and on whether a loss was finite. On a CPU a bad loss is seen in its own step. On a GPU reading it would
    wait for the device, so the optimizer itself skips the step (torch's `found_inf`) and the host learns of it a step
    later. A bad loss makes its whole gradient NaN there, and averaged gradients are the same in all processes, so all
    skip.

    Args:
        optimizer: SGD; a fused one where `late` is set. The gradient of a group 'prior' is of another scale, and is not
            clipped.
        clip_grad: norm that the network's gradient is clipped to, 0 for no clipping.
        world: the processes.
        scaler: of the loss in float16. It skips a step whose gradient overflows in any process, and lowers the scale;
            that is no fault until the scale is below `LOWEST_SCALE`.
        late: read a step's flag only in the next one; default: on a GPU.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grad: float,
        world: World,
        scaler: GradScaler | None = None,
        late: bool | None = None,
    ) -> None:
        self.optimizer, self.clip_grad, self.world, self.scaler = optimizer, clip_grad, world, scaler
        groups = optimizer.param_groups
        self.network = [value for group in groups if group.get("name") != "prior" for value in group["params"]]
        self.prior = [value for group in groups if group.get("name") == "prior" for value in group["params"]]
        self.late = world.device.type == "cuda" if late is None else late
        self._unread: _Flag | None = None

    def take(self, loss: Tensor, where: str, ids: Tensor) -> int:
        """Take the step of one batch.

        Args:
            loss: of the batch, a scalar.
            where: which step this is, for messages.
            ids: (B,) samples of the batch, for messages.

        Returns:
            The signal that asks the run to stop, the same in all processes, or 0.

        Raises:
            UserError: something is not finite in any process; no weight has been changed by it.
        """
        bad_loss = ~torch.isfinite(loss.detach())
        flag = _Flag(where, ids, torch.stack([bad_loss, torch.zeros_like(bad_loss)]))
        readable = self._unread if self.late else flag  # without waiting for work that has just been queued
        vote = self.world.vote(bad=readable is not None and any(readable.read()))
        self.optimizer.zero_grad(set_to_none=True)
        one = loss.detach() - loss.detach() + 1 if self.late else None  # NaN for a loss that is not finite
        (self.scaler.scale(loss) if self.scaler else loss).backward(one)
        signum, bad = vote.result()
        if bad:
            self._fail(readable)
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        overflow = ~torch.isfinite(self._clip())
        if not self.scaler:
            flag = flag._replace(bad=torch.stack([bad_loss, overflow]))
        if self.late:
            self.optimizer.found_inf = flag.bad.any().float()
            self._unread = _on_its_way(flag)
        elif any(flag.read()):
            self._fail(flag)
        if self.scaler:  # which skips a step whose gradient is not finite, as that of such a loss is
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        return signum

    def settle(self) -> None:
        """Make sure that every step so far was finite, before the weights are saved or measured."""
        if self._unread is not None:
            _, bad = self.world.vote(bad=any(self._unread.read())).result()
            if bad:
                self._fail(self._unread)
            self._unread = None
        if self.scaler and self.scaler.get_scale() < LOWEST_SCALE:
            raise UserError(
                "--amp fp16: the gradient overflows however small the loss is made: give --amp bf16, or lower --lr"
            )

    def _clip(self) -> Tensor:
        """Clip the network's gradient; returns its norm and the prior's, added: finite where all gradients are."""
        network = [value for value in self.network if value.grad is not None]
        prior = [value.grad for value in self.prior if value.grad is not None]
        norm = get_total_norm([value.grad for value in network])
        if self.clip_grad:
            clip_grads_with_norm_(network, self.clip_grad, norm)
        return norm + get_total_norm(prior) if prior else norm

    def _fail(self, flag: _Flag) -> None:
        """Say where it happened; all processes come here in the same step."""
        told = self.world.gather((flag.read(), flag.ids.tolist()[:SHOWN_IDS]))
        # a process whose own loss is bad comes first: the gradient is averaged, so it is bad in all of them
        rank = max(range(len(told)), key=lambda rank: told[rank][0])  # of equals the first
        _, ids = told[rank]
        if not self.world.is_main:
            raise SystemExit(2)
        raise UserError(
            f"the loss or its gradient is not finite ({flag.where}, rank {rank}, images {ids}, ...): "
            f"{calmer(self.clip_grad, bool(self.prior))}; no weight was changed by it, and {KEPT}"
        )


def _on_its_way(flag: _Flag) -> _Flag:
    """Start to copy a flag's value to the host; nothing waits for it here."""
    if flag.bad.device.type == "cpu":
        return flag
    bad = torch.empty_like(flag.bad, device="cpu", pin_memory=True).copy_(flag.bad, non_blocking=True)
    arrival = torch.cuda.Event()
    arrival.record()
    return flag._replace(bad=bad, arrival=arrival)
