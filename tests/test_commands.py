"""Every documented command runs on small data, and leaves what it should."""

from conftest import SMALL_MODEL


def test_train_and_both_augmentations(script, tmp_path):
    run = [f"--logdir={tmp_path}", *SMALL_MODEL]
    done = script("train", "Digits_LT", *run, "--epochs=2", "--batch-size=64", "--T-max=2")
    assert done.status == 0, done.err
    assert done.result["epoch"] == 2
    assert done.result["split"] == "test"
