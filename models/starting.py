"""Where a model starts: at the weights of another one, which may be of another kind and know other classes; and its
prior at the codes of the classes.
"""

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from models.classifier import ImageClassifier
from models.prior import ClassMoments
from utils.device import autocast, to_unit_range
from utils.logs import progress
from utils.training.checkpoint import Checkpoint
from utils.training.run import Run

log = logging.getLogger("dgcmm")

HEADS = ("mu_head", "log_var_head")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
READERS = ("classifier", "prior", "decoder.project")  # of codes, which mean nothing to them if other heads made them


def start_from(model: ImageClassifier, state: Mapping[str, Tensor], same_classes: bool) -> tuple[list[str], list[str]]:
    """Load into a model what fits of another one's `state_dict`: the encoder, and all else that means the same there.

    A plain classifier and a DGCMM have the encoder in common, and no more. What knows the classes, the classifier, the
    prior, the decoder's gains and biases and a generative model's heads, is taken where the classes are the same.

    Args:
        model: changed in place; its encoder has the shapes of the other one.
        state: of the other model.
        same_classes: whether the classes are the same, in the same order.

    Returns:
        What was taken, and what was left as it is: names of the model's parts. A part that was taken to some extent is
        in both.
    """
    own = model.state_dict()
    same_kind = ("mu_head.weight" in own) == ("mu_head.weight" in state)
    fitting = {name for name, value in own.items() if name in state and state[name].shape == value.shape}
    if not same_kind:
        fitting = {name for name in fitting if _part(name) == "encoder"}
    if not same_classes:
        fitting = {name for name in fitting if not _knows_classes(name, model.generative)}
    if same_kind and not {name for name in own if _part(name) in HEADS} <= fitting:
        fitting = {name for name in fitting if not name.startswith((*HEADS, *READERS))}
    if {name for name in own if _part(name) == "classifier"} != {name for name in state if _part(name) == "classifier"}:
        fitting = {name for name in fitting if _part(name) != "classifier"}  # one by the cosine, one not
    model.load_state_dict({name: state[name] for name in own if name in fitting}, strict=False)
    parts = list(dict.fromkeys(map(_part, own)))
    taken = [part for part in parts if any(_part(name) == part for name in fitting)]
    left = [part for part in parts if any(_part(name) == part for name in own.keys() - fitting)]
    return taken, left


def take_weights(run: Run, start: Checkpoint) -> None:
    """Take from the checkpoint of `--init` what fits a new run, and say what that is.

    Its prior is not taken without the mixture term, during a warm-up, or at a learning rate of 0: nothing would keep it
    where the codes are. The head of the spread is said to start anew where `--initial-sigma` is given, which replaces
    it.
    """
    state, args = start["state_dict"], run.args
    if not args.weight_gmm or args.warmup_epochs or not args.prior_lr:
        state = {name: value for name, value in state.items() if _part(name) != "prior"}
    taken, left = start_from(run.model, state, start["class_names"] == run.about["class_names"])
    if args.initial_sigma and "log_var_head" in taken:
        taken.remove("log_var_head")
        left.append("log_var_head")
    run.state["prior_started"] = "prior" in taken and start.get("prior_started", False)
    if run.world.is_main:
        source = f"--init {args.init} ({start['arch']}, {start['dataset']}, {start['epoch']} epochs)"
        parts = ", ".join(f"{part} in part" if part in left else part for part in taken)
        anew = ", ".join(part for part in left if part not in taken)
        log.info("%s: taken: %s; started anew: %s", source, parts, anew or "nothing")


@torch.inference_mode()
def start_prior(run: Run, batches: Iterable[tuple[Tensor, ...]], sizes: Sequence[int]) -> None:
    """Place the prior's components at the classes' codes, after the first epoch that has the mixture term.

    One pass over training images. Without it the mixture collapses: all codes move together in the first steps, the
    component that moves first is soon the nearest one to every code, and takes them all. The codes are those of the
    steps, which batch norm makes by each batch's own statistics: after a short epoch the running ones are far behind.

    Args:
        batches: of an epoch: images (B,C,S,S) uint8, labels (B,) and ids (B,), this process's part of each.
        sizes: images of each batch in all processes; `--max-steps` cuts it.

    Raises:
        Stopped: by a signal, before anything was changed.
    """
    args, world, model = run.args, run.world, run.model
    moments = ClassMoments(model.num_classes, model.z_dim, world.device)
    sizes = sizes[: args.max_steps]
    bar = progress("prior", total=sum(sizes), unit="img", quiet=args.quiet)
    with batch_statistics(model), bar:
        for images, labels, _ in itertools.islice(batches, len(sizes)):
            world.check_stop()
            labels = labels.to(world.device)
            with autocast(world.device, args.amp):
                features = model.features(to_unit_range(images, world.device))
            moments.add(*model.posterior(features, labels), labels)
            bar.update(len(images) * world.size)
    world.all_reduce(moments.counts, moments.sums, moments.squares)
    model.prior.start(moments.counts, *moments.means_and_variances())
    for parameter in model.prior.parameters():
        run.optimizer.state.pop(parameter, None)  # momentum towards where it no longer is
    run.state["prior_started"] = True


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Put a model into training mode, and leave the running statistics of its batch norm as they are."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _part(name: str) -> str:
    return name.partition(".")[0]


def _knows_classes(name: str, generative: bool) -> bool:
    """Tell whether a weight has a row or a column for each class."""
    if name.startswith("decoder.norms."):
        return name.endswith((".gain", ".bias"))
    return _part(name) in ("classifier", "prior") or (generative and _part(name) in HEADS)
