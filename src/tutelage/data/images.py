"""Named image sets held in memory: scikit-learn's digits and torchvision's small sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tutelage.data import cache
from tutelage.data.image_set import ImageData
from tutelage.data.image_store import ImageSource
from tutelage.data.splits import one_after_another
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
    "svhn": ("SVHN", "train_32x32.mat"),
    "stl10": ("STL10", "stl10_binary/train_X.bin"),
}


class TorchvisionImages(ImageData):
    """MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN or STL-10 as torchvision reads them, with their official test sets.

    dataset: mnist, fashion_mnist, cifar10, cifar100, svhn (without its extra images) or stl10, whose 100,000 images without labels are for
    method.unlabelled alone.
    root: the folder that holds, or will hold, torchvision's files; by default `downloads` in the cache folder.
    download: fetch what is missing.
    Other arguments: see `ImageData`.
    """

    def __init__(
        self, *, dataset: str, root: str | None = None, download: bool = True, **options: Any
    ) -> None:
        super().__init__(**options)
        if dataset not in TORCHVISION_SETS:
            raise UserError(f"there is no torchvision set '{dataset}'; {choices(dataset, TORCHVISION_SETS)}")
        self.dataset = dataset
        self.root = cache.download_folder(root)
        self.download = download

    def prepare(self) -> None:
        """Download what is missing. Raises UserError where that fails."""
        for part in self._parts():
            self._open(part, download=self.download)

    def _parts(self) -> tuple[str, ...]:
        return ("train", "test", "unlabeled") if self.dataset == "stl10" else ("train", "test")

    def _open(self, part: str, *, download: bool = False) -> Any:
        from torchvision import datasets

        kind, marker = TORCHVISION_SETS[self.dataset]
        which: dict[str, Any] = {"split": part} if kind in ("SVHN", "STL10") else {"train": part == "train"}
        try:
            return getattr(datasets, kind)(self.root, download=download, **which)
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
            parts = {name.replace("unlabeled", "unlabelled"): self._open(name) for name in self._parts()}
            images = torch.cat([torch.as_tensor(part.data) for part in parts.values()])
            if images.ndim == 3:
                images = images[:, None]
            elif images.shape[1] != 3:  # the newer sets come with their channels first
                images = images.permute(0, 3, 1, 2)
            labels = np.concatenate([_labels(part) for part in parts.values()])
            official = one_after_another({name: len(part.data) for name, part in parts.items()})
            names = [str(name) for name in getattr(parts["train"], "classes", range(10))]
            return ImageSource(images.contiguous(), labels, names, official, 255.0, key)

        key = ("torchvision", self.dataset, str(self.root.resolve()))
        return cache.remember(key, read)


def _labels(part: Any) -> np.ndarray:
    """Return the classes (n,) of a part; -1 where it has none."""
    found = part.targets if hasattr(part, "targets") else part.labels
    return np.full(len(part.data), -1) if found is None else np.asarray(found, dtype=np.int64)
