"""Starting a model from the weights of another one, which may be of another kind and know other classes."""

import logging
from collections.abc import Mapping

from torch import Tensor

from models.classifier import ImageClassifier
from utils.training.checkpoint import Checkpoint
from utils.training.run import Run

log = logging.getLogger("dgcmm")

HEADS = ("mu_head", "log_var_head")
READERS = ("classifier", "prior")  # of codes, which mean nothing to them if other heads made them


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
        fitting = {name for name in fitting if _part(name) not in (*HEADS, *READERS)}
    if {name for name in own if _part(name) == "classifier"} != {name for name in state if _part(name) == "classifier"}:
        fitting = {name for name in fitting if _part(name) != "classifier"}  # one by the cosine, one not
    model.load_state_dict({name: state[name] for name in own if name in fitting}, strict=False)
    parts = list(dict.fromkeys(map(_part, own)))
    taken = [part for part in parts if any(_part(name) == part for name in fitting)]
    left = [part for part in parts if any(_part(name) == part for name in own.keys() - fitting)]
    return taken, left


def take_weights(run: Run, start: Checkpoint) -> None:
    """Take from the checkpoint of `--init` what fits a new run, and say what that is."""
    taken, left = start_from(run.model, start["state_dict"], start["class_names"] == run.about["class_names"])
    run.state["prior_started"] = "prior" in taken
    if run.world.is_main:
        source = f"--init {run.args.init} ({start['arch']}, {start['dataset']}, {start['epoch']} epochs)"
        parts = ", ".join(f"{part} in part" if part in left else part for part in taken)
        anew = ", ".join(part for part in left if part not in taken)
        log.info("%s: taken: %s; started anew: %s", source, parts, anew or "nothing")


def _part(name: str) -> str:
    return name.partition(".")[0]


def _knows_classes(name: str, generative: bool) -> bool:
    """Tell whether a weight has a row or a column for each class."""
    if name.startswith("decoder.norms."):
        return name.endswith((".gain", ".bias"))
    return _part(name) in READERS or (generative and _part(name) in HEADS)
