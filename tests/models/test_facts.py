"""What a training says at its start."""

import pytest

from helpers.runs import some_run
from models.facts import log_facts
from models.losses import first_reweighted_epoch


@pytest.mark.parametrize(
    ("images", "flags", "told"),
    [
        (255, {}, ["--batch-size 256: only 255 training images, all in one batch"]),
        (256, {}, []),
        (
            256,
            {"freeze_encoder": True},
            ["--freeze-encoder: the encoder stays as it was drawn at random: give --init or --pretrained"],
        ),
        (256, {"freeze_encoder": True, "init": "x.pth"}, []),
        (256, {"warmup_epochs": 90}, ["--warmup-epochs 90 of 90: decoder and prior are not trained"]),
        (256, {"warmup_epochs": 90, "warmup_threshold": 0.1}, []),
    ],
)
def test_what_is_hardly_meant_is_told_at_the_start(images, flags, told, caplog):
    run = some_run()
    run.model.prior = None
    vars(run.args).update({"batch_size": 256, "step_size": 30, "weight_cls": 10.0} | flags)
    log_facts(run, images, 1, None)
    assert caplog.messages == told


@pytest.mark.parametrize(
    ("epochs", "told"),
    [(4, ["--loss ldam-drw: in 4 epochs no class is re-weighted: that is LDAM, give more"]), (5, [])],
)
def test_deferred_re_weighting_that_never_comes_is_told(epochs, told, caplog):
    run = some_run()
    run.model.prior = None
    vars(run.args).update({"step_size": 30, "weight_cls": 10.0, "loss": "ldam-drw", "epochs": epochs})
    run.state["reweighted_from"] = first_reweighted_epoch(epochs)
    log_facts(run, 1000, 1, None)
    assert caplog.messages == told
