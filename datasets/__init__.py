"""The data sets: a module for each family, and here a line for each."""

from datasets.base import DatasetSpec
from datasets.chestxray import CHESTXRAY
from datasets.digits import DIGITS_LT
from datasets.idx import FASHION_MNIST_LT, MNIST_LT
from datasets.own.folder import IMAGE_FOLDER, IMAGENET_2012
from datasets.own.table import CSV

DATASETS: dict[str, DatasetSpec] = {
    "CSV": CSV,
    "ChestXray": CHESTXRAY,
    "Digits_LT": DIGITS_LT,
    "FashionMNIST_LT": FASHION_MNIST_LT,
    "ImageFolder": IMAGE_FOLDER,
    "ImageNet": IMAGENET_2012,
    "MNIST_LT": MNIST_LT,
}
