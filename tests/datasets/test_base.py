"""ImageDataset: items, keyed draws, subsets and the fingerprint."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from datasets.base import ArrayDataset, DatasetSpec, SampleKey
from utils.errors import UserError
from utils.randomness import Stream, global_seed

TARGETS = np.array([0, 0, 1, 3, 1])
KEY = SampleKey(index=2, seed=7, epoch=3, position=11)
RANDOM_CROP = T.Compose([T.RandomCrop(8), T.PILToTensor()])


@pytest.fixture
def dataset() -> ArrayDataset:
    """Five images of noise in four classes (class 2 has none), each in a group of its own tens."""
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    return ArrayDataset(images, "abcd", TARGETS, [f"row/{row}" for row in range(5)], RANDOM_CROP, np.arange(5) * 10)


def test_item_is_image_label_and_index(dataset):
    dataset.transform = None
    image, label, index = dataset[3]
    assert isinstance(image, Image.Image)
    assert np.array_equal(np.asarray(image), dataset.images[3])
    assert (label, index) == (3, 3)
    assert type(label) is type(index) is int


def test_key_alone_decides_the_draw(dataset):
    first = dataset[KEY]
    torch.manual_seed(123)
    again = dataset[KEY]
    assert torch.equal(first[0], again[0])
    assert first[1:] == again[1:] == (1, 2)


@pytest.mark.parametrize("field", ["seed", "epoch", "position"])
def test_each_part_of_the_key_changes_the_draw(dataset, field):
    others = [dataset[KEY._replace(**{field: value})][0] for value in range(20, 30)]
    assert not any(torch.equal(dataset[KEY][0], other) for other in others)


def test_keyed_draw_leaves_the_global_generator_alone(dataset):
    before = torch.random.get_rng_state()
    dataset[KEY]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_class_counts_include_empty_classes(dataset):
    assert dataset.class_counts == [2, 2, 0, 1]


def test_subset_keeps_image_label_id_and_group_together(dataset):
    dataset.transform = None
    part = dataset.subset(np.array([4, 0, 3])).subset(np.array([2, 0]))
    assert len(part) == 2
    assert part.rows.tolist() == [3, 4]
    assert part.ids.tolist() == ["row/3", "row/4"]
    assert part.groups.tolist() == [30, 40]
    assert [part[index][1:] for index in range(2)] == [(3, 0), (1, 1)]
    assert all(np.array_equal(np.asarray(part[i][0]), dataset.images[row]) for i, row in enumerate([3, 4]))


def test_subset_without_groups(dataset):
    dataset.groups = None
    assert dataset.subset(np.array([1])).groups is None


def test_subset_takes_another_transform_and_leaves_the_whole_as_it_was(dataset):
    centre = T.Compose([T.CenterCrop(4), T.PILToTensor()])
    assert dataset.subset(np.array([1]), centre)[0][0].shape == (1, 4, 4)
    assert dataset.subset(np.array([1])).transform is RANDOM_CROP
    assert dataset.transform is RANDOM_CROP
    assert len(dataset) == 5


def test_fingerprint_is_the_same_on_every_machine(dataset):
    assert dataset.fingerprint().startswith("a1f217c9f945")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.subset(np.array([1, 0, 2, 3, 4])),
        lambda data: data.subset(np.arange(4)),
        lambda data: ArrayDataset(data.images, data.classes, data.targets[[2, 1, 0, 3, 4]], data.ids),
        lambda data: ArrayDataset(data.images, data.classes, data.targets, [f"other/{row}" for row in range(5)]),
    ],
    ids=["order", "length", "labels", "ids"],
)
def test_fingerprint_tells_lists_apart(dataset, change):
    assert change(dataset).fingerprint() != dataset.fingerprint()


def test_fingerprint_is_of_the_list_not_of_the_pixels(dataset):
    other = ArrayDataset(255 - dataset.images, dataset.classes, dataset.targets, dataset.ids)
    assert other.fingerprint() == dataset.fingerprint()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"targets": np.arange(4) % 2 + 1}, "labels are 1 to 2: those of 2 classes are 0 to 1"),
        ({"targets": np.arange(4) % 2 - 1}, "labels are -1 to 0"),
        ({"targets": np.arange(4) % 2 / 1}, "labels are float64: give whole numbers, 0 to 1"),
        ({"targets": np.array(list("abab"))}, "labels are <U1"),
        ({"targets": np.eye(4, dtype=int)}, r"labels have the shape \(4, 4\) for 4 images"),
        ({"ids": "xyz"}, r"labels have the shape \(4,\) for 3 images"),
        ({"images": np.zeros((5, 8, 8), np.uint8)}, "there are 5 images and 4 labels"),
        ({"images": np.zeros((4, 8, 8))}, r"images are float64 \(4, 8, 8\): give uint8"),
        ({"images": np.zeros((4, 3, 8, 8), np.uint8)}, r"images are uint8 \(4, 3, 8, 8\): give uint8, \(N,h,w\)"),
        ({"images": np.zeros((4, 8, 8, 1), np.uint8)}, r"images are uint8 \(4, 8, 8, 1\)"),
        ({"images": np.zeros((4, 64), np.uint8)}, r"images are uint8 \(4, 64\)"),
    ],
)
def test_array_that_is_no_data_set_is_named(changed, says):
    fits = {"images": np.zeros((4, 8, 8, 3), np.uint8), "classes": "ab", "targets": np.arange(4) % 2, "ids": "wxyz"}
    whole, other = (arguments | {"ids": list(arguments["ids"])} for arguments in (fits, fits | changed))
    assert len(ArrayDataset(**whole)) == 4
    with pytest.raises(UserError, match=says):
        ArrayDataset(**other)


@pytest.mark.parametrize("names", [("padd", "shift-flip"), ("pad", "shift_flip"), ("pad", "flip")])
def test_entry_of_the_registry_names_what_there_is(names):
    with pytest.raises(ValueError, match="is none of"):
        DatasetSpec(lambda args: None, *names)


def test_draws_of_a_transform_are_of_seed_epoch_and_position():
    images, targets = np.zeros((8, 4, 4), np.uint8), np.arange(8) % 2
    data = ArrayDataset(images, "ab", targets, list("abcdefgh"), lambda _: torch.rand(1))
    with global_seed(7, Stream.TRANSFORM, 2, 3):
        expected = torch.rand(1)
    assert data[SampleKey(0, seed=7, epoch=2, position=3)][0] == expected
