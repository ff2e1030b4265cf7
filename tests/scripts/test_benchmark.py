"""The benchmark on tiny sizes: every row, the exit status, what is left out, and that both sides do the same work."""

import json
import math

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets.loading import make_loader
from datasets.splits import load_splits
from scripts import benchmark
from scripts.benchmarks import profile, setup, timing
from scripts.benchmarks.reading import ReleaseImages, endless, write_chestxray, x_ray
from scripts.benchmarks.setup import Sizes, train_args
from utils.distributed.world import World
from utils.errors import UserError

TINY = Sizes(
    arch="resnet18_vae3",
    dim=8,
    side=32,
    step_targets=((4, 1.05, 1.10),),
    batches=1,
    batch=4,
    many=20,
    mixture_batch=6,
    png_side=48,
    pngs=3,
    files=15,
    workers=1,
    counts=(120, 40, 5),
    code_steps=3,
)
# name -> (target, whether it is a least one) of each row
ROWS = {
    "reading": [(2.0, True), (20.0, True)],
    "step": [(1.05, False), (1.10, False)],
    "epoch": [(1.0, False)],
    "generative": [(1.5, False)] * 2 + [(8.0, False)] * 2,
    "mixture": [(0.05, False)],
    "extraction": [(1.05, False)] * 2,
    "retraining": [(3.0, True), (8.0, False)],
    "processes": [(1.7, True)],
}


@pytest.fixture(autouse=True)
def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "has_fast_bfloat16", lambda device: True)


def test_every_benchmark_is_tried():
    assert benchmark.BENCHMARKS.keys() == ROWS.keys()


def test_compilation_without_a_compiler_is_named_at_the_start(monkeypatch):
    monkeypatch.setenv("CXX", "none-such")
    with pytest.raises(UserError, match="--compile: there is no C\\+\\+ compiler none-such"):
        benchmark.main(["--compile", "--only", "step"], TINY)


@pytest.mark.parametrize("name", ROWS)
def test_each_target_has_a_ratio(name):
    threads = torch.get_num_threads()
    ratios = list(benchmark.BENCHMARKS[name](TINY, 1))
    assert [(ratio.target, ratio.at_least) for ratio in ratios] == ROWS[name]
    assert all(ratio.name.startswith(f"{name}: ") and 0 < ratio.ratio < math.inf for ratio in ratios)
    assert torch.get_num_threads() == threads


def test_bfloat16_is_left_out_where_the_device_has_none(monkeypatch, capsys):
    monkeypatch.setattr(setup, "has_fast_bfloat16", lambda device: False)
    benchmark.main(["--only", "step", "extraction", "mixture", "--repeats=1"], TINY)
    out = capsys.readouterr().out.splitlines()
    assert "no bfloat16 instructions" in out[1]
    assert [row["name"].split()[-1] for row in json.loads(out[-1])] == ["off", "off", "step"]


@pytest.mark.parametrize(("ratio", "status"), [(0.9, 0), (1.0, 0), (1.1, 3)])
def test_a_missed_target_ends_with_status_3(ratio, status, monkeypatch, capsys):
    row = timing.Ratio("step: ours / other", ratio, 1.0, False, "3.0 and 2.7 images/s", 3.0, 2**30)
    monkeypatch.setitem(benchmark.BENCHMARKS, "step", lambda sizes, repeats: [row])
    assert benchmark.main(["--only=step"], TINY) == status
    out = capsys.readouterr().out.splitlines()
    assert ("MISSED" in out[-2]) == bool(status)
    assert out[-2].endswith("3.0 and 2.7 images/s, 1.0 GiB")
    assert json.loads(out[-1]) == [
        {"name": "step: ours / other", "ratio": ratio, "target": 1.0, "at_least": False, "met": not status}
        | {"rate": 3.0, "memory": 2**30}
    ]


def test_profile_of_a_step(capsys):
    profile.main(["--images=4", "--amp=off"], TINY, steps=1)
    out = capsys.readouterr().out
    assert [line.partition(":")[0] for line in out.splitlines() if "a step takes" in line] == ["train.py", "bare"]
    assert "Self CPU" in out


def test_a_ratio_is_the_median_of_the_rounds_and_counts_images(monkeypatch):
    rounds = [[4.0, 1.0], [2.0, 4.0], [8.0, 1.0]]  # seconds of 2 images and of 1
    monkeypatch.setattr(timing, "turns", lambda repeats, *calls: rounds)
    ours, other = timing.Side(print, 2), timing.Side(print, 1)
    assert timing.slowdown("", ours, other, 1.0, 3)[1:] == (2.0, 1.0, False, "0.5 and 1.0 images/s", 0.5, None)
    assert timing.speedup("", ours, other, 1.0, 3).ratio == 0.5


def test_calls_take_turns_and_the_first_round_does_not_count():
    called = []
    rounds = timing.turns(2, lambda: called.append("a"), lambda: called.append("b"))
    assert "".join(called) == "abbaab"
    assert [len(seconds) for seconds in rounds] == [2, 2]


def test_both_sides_read_the_same_files_to_batches_of_one_size(tmp_path):
    write_chestxray(tmp_path, TINY)
    args = train_args(TINY, f"--datadir={tmp_path}", "--workers=0", "--batch-size=5")
    data = load_splits(args).train
    assert len(list((tmp_path / "images").iterdir())) == TINY.files + setup.CLASSES
    assert data.class_counts == [1] * setup.CLASSES
    images, labels = next(iter(DataLoader(ReleaseImages(data, TINY.side), 5)))
    assert (images.shape, images.dtype, labels.tolist()) == ((5, 3, 32, 32), torch.float32, [0, 1, 2, 3, 4])
    batches = endless(make_loader(World(), args, data, train=True))
    epochs = [torch.cat([next(batches)[0] for _ in range(3)]) for _ in range(2)]
    assert (epochs[0].shape, epochs[0].dtype) == ((15, 1, 32, 32), torch.uint8)
    assert not torch.equal(*epochs)


def test_images_have_the_size_of_x_rays(tmp_path):
    Image.fromarray(x_ray(1024, seed=0)).save(tmp_path / "x.png")
    assert 450_000 < (tmp_path / "x.png").stat().st_size < 550_000
