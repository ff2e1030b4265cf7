"""What a script has reached; the table of runs tests the rest."""

from utils.training.reached import NOTHING_LEFT


def test_checkpoint_is_of_the_re_training_that_its_name_ends_with():
    names = ("before_augmentation.pth", "checkpoint_aug.pth", "checkpoint_aug_ftl_prev.pth", "model_best.pth")
    found = [NOTHING_LEFT._replace(arguments={"resume": f"runs/{name}"}).retraining() for name in names]
    assert found == ["", "_aug", "_aug_ftl", ""]
