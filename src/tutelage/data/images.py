"""Named image sets held in memory: scikit-learn's digits and torchvision's small sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tutelage.data import cache
from tutelage.data.image_set import ImageData
from tutelage.data.image_store import ImageSource
from tutelage.errors import UserError, choices


class Digits(ImageData):
    """scikit-learn's handwritten digits: 1,797 images of 8x8, 10 classes, embedded in the package (no
    download).

    They are the test part of the UCI set (Alpaydin and Kaynak 1998), so a test split is made here, by
    `split_seed`.
    """

    def source(self) -> ImageSource:
        """See `ImageData`."""

        def read() -> ImageSource:
            from sklearn.datasets import load_digits

            digits = load_digits()
            images = torch.from_numpy(digits.images.astype(np.uint8))[:, None].contiguous()
            labels = digits.target.astype(np.int64)
            return ImageSource(images, labels, [str(i) for i in range(10)], {}, 16.0, ("digits",))

        return cache.remember(("digits",), read)


TORCHVISION_SETS = {
    "mnist": ("MNIST", "MNIST/raw/train-images-idx3-ubyte"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}


class TorchvisionImages(ImageData):
    """MNIST, Fashion-MNIST, CIFAR-10 or CIFAR-100 as torchvision reads them, with their official test sets.

    dataset: mnist, fashion_mnist, cifar10 or cifar100.
    root: the folder that holds, or will hold, torchvision's files; by default `downloads` in the cache folder.
    download: fetch what is missing.
    Other arguments: see `ImageData`.
    """

    def __init__(
        self, *, dataset: str, root: str | None = None, download: bool = True, **options: Any
    ) -> None:
        super().__init__(**options)
        if dataset not in TORCHVISION_SETS:
            raise UserError(f"there is no torchvision set '{dataset}': {choices(dataset, TORCHVISION_SETS)}")
        self.dataset = dataset
        self.root = cache.download_folder(root)
        self.download = download

    def prepare(self) -> None:
        """Download what is missing. Raises UserError where that fails."""
        self._open(train=True, download=self.download)
        self._open(train=False, download=self.download)

    def _open(self, *, train: bool, download: bool = False) -> Any:
        from torchvision import datasets

        kind, marker = TORCHVISION_SETS[self.dataset]
        try:
            return getattr(datasets, kind)(self.root, train=train, download=download)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"{kind} is not complete in {self.root} ({reason}). "
                f"Expected torchvision's files there ({marker} and its like). "
                f"On a machine with network access they are downloaded at first use; "
                f"else copy such a folder and set `root` to it"
            ) from error

    def source(self) -> ImageSource:
        """See `ImageData`."""

        def read() -> ImageSource:
            train, test = self._open(train=True), self._open(train=False)
            images = torch.cat([torch.as_tensor(part.data) for part in (train, test)])
            images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
            labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in (train, test)])
            official = {"train": np.arange(len(train)), "test": np.arange(len(train), len(labels))}
            return ImageSource(images.contiguous(), labels, list(train.classes), official, 255.0, key)

        key = ("torchvision", self.dataset, str(self.root.resolve()))
        return cache.remember(key, read)
