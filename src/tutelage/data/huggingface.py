"""Sets of the datasets library, by name or from a local folder or file: as a table, texts or images."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tutelage.data import cache, column_cells, frame
from tutelage.data.base import DataModule
from tutelage.data.fingerprint import fingerprint as fingerprint_of
from tutelage.data.image_pixels import Form, read
from tutelage.data.image_set import ImageData
from tutelage.data.image_store import ImageSource
from tutelage.data.memory import check_fits
from tutelage.data.rows import Rows
from tutelage.data.splits import one_after_another
from tutelage.data.table import Table
from tutelage.data.text_rows import TextRows
from tutelage.errors import ONCE, UserError, choices, extra
from tutelage.typed import Count

log = logging.getLogger("tutelage")
_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}


def load(
    *,
    root: str | None = None,
    name: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    text: str | None = None,
    image: str | None = None,
    target: str | Sequence[str] | None = None,
    **options: Any,
) -> DataModule:
    """Return a data module of a set of the datasets library; nothing is read yet.

    root: a local folder (as `save_to_disk` writes it, or of files that the library reads) or file. name, config, revision: of a set on the
    hub, in place of root; what was downloaded before is found without a network. text: the column of texts, or image: that of images;
    without either the columns are a table. target: the column to predict. options: of `TextRows`, `ImageData` or `Table`.
    """
    if (root is None) == (name is None):
        raise UserError("give either `root`, a local folder or file, or `name`, a set on the hub")
    if text is not None and image is not None:
        raise UserError("give `text` or `image`, the column that a network sees, not both")
    given = {key: value for key, value in options.items() if value is not None}
    source = _Source(root, name, config, revision)
    try:
        if image is not None:
            names = [target or "label"] if isinstance(target, str | None) else list(target)
            if len(names) != 1:
                raise UserError(
                    f"`target` of images is one column, of classes, got {names}; several labels an image are data=own with a Dataset"
                )
            return HubImages(source=source, image=image, target=names[0], **given)
        rows: Rows
        if text is not None:
            rows = TextRows(root=source.said, text=text, target=target or "label", **given)
        else:
            rows = Table(root=source.said, target=target, **given)
    except TypeError as error:
        raise UserError(
            f"a set with {'`image`' if image else '`text`' if text else 'neither `text` nor `image`'}: {error}"
        ) from error
    rows.reader = source.frame
    if rows.fingerprint is None and name is not None:
        rows.fingerprint = f"{name} {config} {revision}"
    return rows


class _Source:
    """A set of the datasets library, read once in this process."""

    def __init__(self, root: str | None, name: str | None, config: str | None, revision: str | None) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.name, self.config, self.revision = name, config, revision

    @property
    def key(self) -> tuple[Any, ...]:
        return self.said, self.config, self.revision

    @property
    def said(self) -> str:
        return str(self.root or self.name)

    def parts(self) -> dict[str, Any]:
        """Return the set of each part ("" for one that is to be split)."""
        content = None if self.root is None else fingerprint_of(self.root)
        return cache.remember(("datasets", *self.key, content), self._read)

    def _read(self) -> dict[str, Any]:
        with extra("huggingface", "data=huggingface needs the package datasets"):
            import datasets
        datasets.disable_progress_bars()
        try:
            found = self._opened(datasets)
        except UserError:
            raise
        except Exception as error:  # the library's own kinds are many, and change
            where = (
                ""
                if self.root is not None
                else "; without a network, only sets that were downloaded before are found"
            )
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"datasets cannot read {self.said}: {reason:.300}{where}") from error
        if not isinstance(found, dict):
            return {"": found}
        parts: dict[str, Any] = {}
        for part, words in frame.PARTS.items():
            for word in words:
                if word in found:
                    parts.setdefault(part, found[word])
        left_out = [one for one in found if found[one] not in parts.values()]
        if left_out:
            log.info("%s: the parts %s are left out", self.said, ", ".join(left_out), extra=ONCE)
        if "train" not in parts:
            raise UserError(f"{self.said} has no part called train, but {', '.join(map(str, found))}")
        return {"": parts["train"]} if len(parts) == 1 else parts

    def _opened(self, datasets: Any) -> Any:
        if self.root is None:
            return datasets.load_dataset(self.name, self.config, revision=self.revision)
        if self.root.is_file():
            kind = _BUILDERS.get(self.root.suffix.lower())
            if kind is None:
                raise UserError(
                    f"no file of this kind can be read: {self.root}; {choices(self.root.suffix, _BUILDERS)}"
                )
            return datasets.load_dataset(kind, data_files={"train": str(self.root)})["train"]
        if not self.root.is_dir():
            raise UserError(f"there is no file or folder {self.root}: `root` must name existing data")
        if (self.root / "dataset_dict.json").is_file() or (self.root / "state.json").is_file():
            return datasets.load_from_disk(str(self.root))
        return datasets.load_dataset(str(self.root), self.config)

    def frame(self) -> frame.Frame:
        """Return the rows of all parts, classes by their names."""
        import pandas as pd

        parts, notes = {}, list[str]()
        for part, found in self.parts().items():
            rows = found.to_pandas()
            for column, feature in found.features.items():
                if type(feature).__name__ == "ClassLabel":
                    names = np.asarray([*feature.names, None], dtype=object)
                    rows[column] = names[rows[column].fillna(-1).to_numpy(dtype=np.int64)]
            parts[part] = frame.without_index(rows, notes)
        columns = list(next(iter(parts.values())).columns)
        official = one_after_another({part: len(rows) for part, rows in parts.items()})
        whole = pd.concat([rows[columns] for rows in parts.values()], ignore_index=True)
        for column in columns:
            whole[column] = column_cells.plain(self.said, column, whole[column], (), notes)
        return frame.Frame(whole, {} if "" in official else official, list(dict.fromkeys(notes)))


class HubImages(ImageData):
    """Images of the datasets library, decoded once and kept in memory. source: the set. image, target: its columns.

    image_size: pixels per side; None where all have one size. channels: 3 or 1. Other arguments: see `ImageData`.
    """

    def __init__(
        self,
        *,
        source: _Source,
        image: str,
        target: str,
        image_size: Count | None = None,
        channels: Literal[1, 3] = 3,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.hub, self.image, self.target = source, image, target
        self.form: Form = Form(image_size, channels, (255, 255, 255), None)

    def source(self) -> ImageSource:
        """See `ImageData`."""
        if self.hub.root is not None:
            self.fingerprint = self.fingerprint or fingerprint_of(self.hub.root)
        key = ("hub images", *self.hub.key, self.fingerprint, self.image, self.target, self.form)
        return cache.remember(key, lambda: self._decoded(key))

    def _decoded(self, key: tuple[Any, ...]) -> ImageSource:
        import datasets

        images: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        official: dict[str, np.ndarray] = {}
        names: list[str] | None = None
        for part, found in self.hub.parts().items():
            for what, column in (("image", self.image), ("target", self.target)):
                if column not in found.features:
                    raise UserError(
                        f"{self.hub.said} has no column '{column}' (`{what}`); {choices(column, found.features)}"
                    )
            feature = found.features[self.target]
            if type(feature).__name__ == "ClassLabel":
                names = list(feature.names)
                numbers = np.asarray(found[self.target], dtype=np.int64)
            else:
                said = [str(one) for one in found[self.target]]
                names = names or sorted(
                    set(said), key=lambda one: (not one.isdecimal(), int(one) if one.isdecimal() else 0, one)
                )
                numbers = np.asarray(
                    [names.index(one) if one in names else -1 for one in said], dtype=np.int64
                )
            if unknown := int((numbers < 0).sum()):
                raise UserError(
                    f"{self.hub.said}: {unknown} rows of '{part or 'train'}' have no known class in '{self.target}'"
                )
            rows = found.select_columns([self.image]).cast_column(self.image, datasets.Image(decode=False))
            official[part] = np.arange(len(images), len(images) + len(rows))
            labels.append(numbers)
            for place, row in enumerate(rows):
                cell = row[self.image]
                try:
                    raw = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
                    images.append(read(io.BytesIO(raw), self.form)[0])
                except Exception as error:  # what Pillow raises is of every kind
                    where = f"{self.hub.said}: the image of row {place + 1} of '{part or 'train'}'"
                    raise UserError(f"{where} cannot be read: {error}") from error
                if images[-1].shape != images[0].shape:
                    raise UserError(
                        f"{self.hub.said}: images have several sizes: set `image_size` to decode all to one"
                    )
                if place == 0:
                    check_fits(
                        images[-1].nbytes * len(rows),
                        f"the images of {self.hub.said}, decoded,",
                        "take a part of them",
                    )
        assert names is not None
        found_parts = {} if "" in official else official
        return ImageSource(
            torch.from_numpy(np.stack(images)), np.concatenate(labels), names, found_parts, 255.0, key
        )
