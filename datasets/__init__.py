"""The data sets: a module for each family, and here a line for each."""

from datasets.base import DatasetSpec
from datasets.celeba import CELEBA
from datasets.chestxray import CHESTXRAY
from datasets.cifar import CIFAR10, CIFAR10_LT, CIFAR100, CIFAR100_LT
from datasets.digits import DIGITS_LT
from datasets.idx import FASHION_MNIST_LT, MNIST_LT
from datasets.inaturalist import INATURALIST_2017
from datasets.listed import IMAGENET_LT, PLACES_LT
from datasets.own.folder import IMAGE_FOLDER, IMAGENET
from datasets.own.table import CSV
from datasets.svhn import SVHN, SVHN_LT

DATASETS: dict[str, DatasetSpec] = {
    "CIFAR10": CIFAR10,
    "CIFAR100": CIFAR100,
    "CIFAR100_LT": CIFAR100_LT,
    "CIFAR10_LT": CIFAR10_LT,
    "CSV": CSV,
    "CelebA": CELEBA,
    "ChestXray": CHESTXRAY,
    "Digits_LT": DIGITS_LT,
    "FashionMNIST_LT": FASHION_MNIST_LT,
    "ImageFolder": IMAGE_FOLDER,
    "ImageNet": IMAGENET,
    "ImageNet_LT": IMAGENET_LT,
    "MNIST_LT": MNIST_LT,
    "Places_LT": PLACES_LT,
    "SVHN": SVHN,
    "SVHN_LT": SVHN_LT,
    "iNaturalist2017": INATURALIST_2017,
}
