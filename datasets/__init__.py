"""The data sets: a module for each family, and here a line for each."""

from datasets.base import DatasetSpec
from datasets.chestxray import CHESTXRAY
from datasets.digits import DIGITS_LT
from datasets.idx import FASHION_MNIST_LT, MNIST_LT

DATASETS: dict[str, DatasetSpec] = {
    "ChestXray": CHESTXRAY,
    "Digits_LT": DIGITS_LT,
    "FashionMNIST_LT": FASHION_MNIST_LT,
    "MNIST_LT": MNIST_LT,
}
