"""Names, classes and sizes of the data sets, without importing torch, so that `-h` answers at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before a file is read.

    Attributes:
        module: where its `load` and `transform` live.
        classes: class names in label order.
        train_counts, test_counts: images per class of the full splits.
    """

    module: str
    classes: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]


DATASETS = {
    "ChestXray": DatasetInfo(
        module="datasets.chestxray",
        classes=(
            "No Finding",
            "Atelectasis",
            "Cardiomegaly",
            "Effusion",
            "Infiltration",
            "Mass",
            "Nodule",
            "Pneumonia",
            "Pneumothorax",
            "Consolidation",
            "Edema",
            "Emphysema",
            "Fibrosis",
            "Pleural_Thickening",
            "Hernia",
        ),
        train_counts=(50500, 3414, 777, 2788, 7327, 1696, 2248, 234, 1241, 829, 397, 587, 551, 817, 65),
        test_counts=(9861, 801, 316, 1167, 2220, 443, 457, 88, 953, 481, 231, 305, 176, 309, 45),
    ),
    "Digits_LT": DatasetInfo(
        module="datasets.digits",
        classes=tuple("0123456789"),
        train_counts=(130, 110, 80, 60, 45, 35, 25, 20, 12, 6),
        test_counts=(40,) * 10,
    ),
    "FashionMNIST_LT": DatasetInfo(
        module="datasets.fashion_mnist",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        train_counts=(4000, 2000, 1000, 750, 500, 350, 200, 100, 60, 40),
        test_counts=(1000,) * 10,
    ),
}
