"""What every image classification set shares: the resident store, subsets, hard data and normalisation."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache, corruption
from tutelage.data import splits as splitting
from tutelage.data.augment import build_all
from tutelage.data.augment_basic import Augmentation
from tutelage.data.base import DataModule
from tutelage.data.image_files import Files
from tutelage.data.image_pixels import Form
from tutelage.data.image_store import ImageSource, ImageStore, moments
from tutelage.data.streams import Store
from tutelage.errors import ONCE, UserError, choices
from tutelage.tasks import Classification, NoTargets
from tutelage.typed import Count, Rate

log = logging.getLogger("tutelage")


class ImageData(DataModule):
    """Image classification: splits, subsets, hard data, normalisation and augmentation of any image source.

    test: fraction of all images, or their number, held out (stratified) where the set has no test part.
    validation: the same of the training images, where the set has no validation part.
    classes: names or numbers of the classes to keep, re-numbered in this order.
    train_size: training images to keep, stratified, after validation was taken, which keeps its size: for an honest few-label setting,
    give `validation` as a small number too.
    per_class: training images to keep of each class, likewise.
    label_noise: share of wrong training labels.
    label_noise_kind: as in `corruption.flip_labels`.
    label_noise_map: as in `corruption.flip_labels`.
    missing: share of pixels set to 0 before normalisation, all channels of a pixel together.
    missing_in: "train" or "all" images.
    normalization: "train" (mean and standard deviation of the training images; of 10,000 of them in memory, of 1,000 from
    files), None, or [means, deviations] per channel, of images scaled to [0, 1].
    augment: augmentations in order, each a name of `augment.AUGMENTATIONS` with its arguments, or any name with an object.
    """

    form: Form | None = None  # what files are decoded to, where a set reads any

    def __init__(
        self,
        *,
        validation: float = 0.1,
        test: float = 0.2,
        classes: Sequence[str | int] | None = None,
        train_size: Count | None = None,
        per_class: Count | None = None,
        label_noise: Rate = 0.0,
        label_noise_kind: corruption.LabelNoise = "symmetric",
        label_noise_map: Mapping[int, int] | None = None,
        missing: Rate = 0.0,
        missing_in: Literal["train", "all"] = "train",
        normalization: str | Sequence[Sequence[float]] | None = "train",
        augment: Mapping[str, Mapping[str, Any] | Augmentation | None] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.validation, self.test = validation, test
        self.classes, self.train_size, self.per_class = classes, train_size, per_class
        self.label_noise = float(label_noise)
        self.label_noise_kind = label_noise_kind
        self.label_noise_map = label_noise_map
        self.missing, self.missing_in = float(missing), missing_in
        self.requested_normalization = normalization
        self.augment, self.mixer = build_all(augment or {})
        self._training = np.empty(0, dtype=np.int64)

    @abstractmethod
    def source(self) -> ImageSource:
        """Return the images, labels and official splits."""

    def load(self) -> None:
        """See `DataModule`."""
        source = self.source()
        labels, names = self._choose_classes(source)
        self.splits = self._split(labels, source.official)
        if source.absent is not None and len(source.absent):
            self.splits = {name: np.setdiff1d(part, source.absent) for name, part in self.splits.items()}
            self._training = np.setdiff1d(self._training, source.absent)
        if names:
            counts = np.bincount(labels[self.splits["train"]], minlength=len(names))
            self.facts |= {"classes": names, "train_class_counts": counts.tolist()}
        pixels = source.images
        self._check_repeats(
            cache.remember(("content", *source.key), lambda: splitting.content_numbers(pixels.numpy()))
            if isinstance(pixels, Tensor)
            else source.contents
        )
        images = self._corrupt(source)
        if names:
            labels, realised = corruption.flip_labels(
                labels,
                self.splits["train"],
                rate=self.label_noise,
                classes=len(names),
                seed=self.split_seed,
                kind=self.label_noise_kind,
                mapping=self.label_noise_map,
            )
            if self.label_noise:
                self.facts["wrong_train_labels"] = realised
        for split, indices in self.splits.items():
            if absent := sorted(set(range(len(names))) - set(labels[indices].tolist())):
                shown = ", ".join(names[i] for i in absent[:8]) + (" ..." if len(absent) > 8 else "")
                log.warning(
                    f"no {split} sample of {len(absent)} of {len(names)} classes: {shown}", extra=ONCE
                )
        self._check_augmentation(images)
        self.task = Classification(len(names)) if names else NoTargets()
        self.input_shape = tuple(images.shape[1:]) if isinstance(images, Tensor) else images.shape
        self.normalization = self._normalization(images, source)
        self.store = self._store(images, torch.from_numpy(labels), source.peak)
        self._images, self._peak = images, source.peak

    @property
    def mixes_targets(self) -> bool:
        """See `DataModule`."""
        return self.mixer is not None

    def unlabelled_pixels(self) -> Tensor:
        """Return all images as bytes (N, C, H, W) from 0 to 255. Raises UserError where they are not in memory, or finer."""
        images = self._images
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            raise UserError(
                "unlabelled images must lie in memory, with 8 bits a value: set `storage`=resident, or take a smaller `image_size`"
            )
        if self._peak != 255:  # strong augmentation knows bytes from 0 to 255
            images = (images.float() * (255 / self._peak)).round().to(torch.uint8)
        return images

    def unlabelled(self, which: Literal["train", "rest", "all"]) -> tuple[Tensor, np.ndarray, Tensor, Tensor]:
        """Return images to be looked at without their labels: (images uint8, which of them, scale, shift), the latter two as the data's.

        which: "train": all that `train_size` and `per_class` choose the labelled ones from, as semi-supervised learning's benchmarks
        have it, and those that the set has no labels for; "rest": those without the labelled ones; "all": as "train", also where all
        have labels. Never one of validation or test.
        Raises UserError where there are none, or where they are not in memory.
        """
        images = self.unlabelled_pixels()
        if self.missing and self.missing_in == "train":
            raise UserError(
                "data.missing_in=train hides pixels of labelled images alone: set data.missing_in=all"
            )
        rest = np.setdiff1d(self._training, self.splits["train"])
        if which != "all" and not len(rest):
            raise UserError(
                f"method.unlabelled={which}: all {len(self.splits['train'])} training images have their labels. data.per_class=<number> or "
                "data.train_size=<number> say how many keep them"
            )
        return images, rest if which == "rest" else self._training, *self._affine(255.0)

    def _check_augmentation(self, images: Tensor | Files) -> None:
        eight_bits = images.dtype in (torch.uint8, np.uint8)
        for step in () if eight_bits or self.augment is None else self.augment.steps:
            if getattr(step, "bytes_only", False):
                raise UserError(
                    f"{type(step).__name__} in `augment` works on images of 8 bits a value, those of {type(self).__name__} have more: "
                    "leave it out, or store the images with 8 bits"
                )

    def _choose_classes(self, source: ImageSource) -> tuple[np.ndarray, list[str]]:
        names = [str(name) for name in source.class_names]
        for key in () if names else ("classes", "label_noise", "per_class", "sampling"):
            if value := getattr(self, key):
                raise UserError(f"`{key}`={value}: these images have no classes")
        if self.classes is None:
            return source.labels, names
        if not self.classes:
            raise UserError(f"`classes` must name at least one class; {choices('', names)}")
        table = np.full(len(names), -1)
        # Where all names are numbers, a number is a name: folders 1, 2 and 10 stand in another order.
        are_names = all(name.isdigit() for name in names)
        for position, name in enumerate(self.classes):
            if isinstance(name, int) and not are_names:
                number = name
            else:
                number = names.index(str(name)) if str(name) in names else -1
            if not 0 <= number < len(names) or table[number] >= 0:
                what = (
                    "occurs twice"
                    if 0 <= number < len(names)
                    else f"does not exist; {choices(str(name), names)}"
                )
                raise UserError(f"`classes`: class {name!r} {what}")
            table[number] = position
        return table[source.labels], [names[i] for i in np.argsort(table)[len(names) - len(self.classes) :]]

    def _split(self, labels: np.ndarray, official: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        parts = {
            name: indices if name == "unlabelled" else indices[labels[indices] >= 0]
            for name, indices in official.items()
        }
        train = parts["train"] if "train" in parts else np.flatnonzero(labels >= 0)
        if "test" not in parts:
            train, parts["test"] = splitting.hold_out(
                train, self.test, seed=self.split_seed, name="test", labels=labels
            )
        if "validation" not in parts:
            train, parts["validation"] = splitting.hold_out(
                train, self.validation, seed=self.split_seed, name="validation", labels=labels
            )
        self._training = np.sort(np.concatenate([train, parts.get("unlabelled", train[:0])]))
        if self.train_size is not None:
            train = splitting.limit(train, self.train_size, seed=self.split_seed, labels=labels)
        if self.per_class is not None:
            train = splitting.take_per_class(train, labels, self.per_class, seed=self.split_seed)
        return {"train": train, "validation": parts["validation"], "test": parts["test"]}

    def _corrupt(self, source: ImageSource) -> Tensor | Files:
        clean = source.images
        if not self.missing:
            return clean
        if not isinstance(clean, Tensor):
            raise UserError("`missing` needs images in memory: set `storage`=resident")
        corrupted = np.sort(self.splits["train"]) if self.missing_in == "train" else np.arange(len(clean))
        key = ("missing", *source.key, self.missing, self.split_seed, splitting.digest(corrupted))

        def make() -> tuple[Tensor, float]:
            images, gone, pixels = clean.clone(), 0, clean[0, 0].numel()
            chosen = np.zeros(len(images), dtype=bool)
            chosen[corrupted] = True
            for start in range(0, len(images), 4096):
                block = images[start : start + 4096].flatten(2)
                mask = corruption.missing_values(
                    start, len(block), pixels, rate=self.missing, seed=self.split_seed
                )
                mask &= chosen[start : start + 4096, None]
                block.masked_fill_(torch.from_numpy(mask)[:, None], 0)
                gone += int(mask.sum())
            return images, gone / (len(corrupted) * pixels)

        images, self.facts["missing_values"] = cache.remember(key, make)
        return images

    def _normalization(
        self, images: Tensor | Files, source: ImageSource
    ) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        wanted, channels = self.requested_normalization, self.input_shape[0]
        if wanted is None:
            return None
        if wanted == "train":
            train = self.splits["train"]
            key = (
                "moments",
                *source.key,
                self.missing,
                self.missing_in,
                self.split_seed,
                splitting.digest(train),
            )
            return cache.remember(key, lambda: moments(images, train, source.peak))
        if isinstance(wanted, str) or len(wanted) != 2 or any(len(part) != channels for part in wanted):
            raise UserError(
                f"normalization must be 'train', null or two lists of {channels} numbers "
                f"(means, deviations), got {wanted!r}"
            )
        mean, deviation = (tuple(float(value) for value in part) for part in wanted)
        if min(deviation) <= 0:
            raise UserError(f"normalization: standard deviations must be positive, got {list(deviation)}")
        return mean, deviation

    def _affine(self, peak: float) -> tuple[Tensor, Tensor]:
        # (x / peak - mean) / deviation as one product and one sum, each (1, C, 1, 1).
        channels = self.input_shape[0]
        mean, deviation = self.normalization or ((0.0,) * channels, (1.0,) * channels)
        spread = torch.tensor(deviation, dtype=torch.float64).view(1, -1, 1, 1)
        shift = -torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1) / spread
        return (1 / (peak * spread)).float(), shift.float()

    def _store(self, images: Tensor | Files, labels: Tensor, peak: float) -> Store:
        if not isinstance(images, Tensor):
            raise TypeError(f"{type(self).__name__} cannot stream files")
        return ImageStore(
            images, labels, *self._affine(peak), self.augment, self.mixer, self.task.output_size
        )
