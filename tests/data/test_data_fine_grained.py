"""Published fine-grained sets, read from small copies in their own formats, against torchvision where it reads them too."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from tutelage.data.fine_grained import FineGrained
from tutelage.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


def paint(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(path)


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def make_dtd(root: Path) -> None:
    for part in ("train", "val", "test"):
        names = [f"{c}/{c}_{part}{i}.jpg" for c in ("banded", "dotted") for i in range(4)]
        write(root / f"dtd/dtd/labels/{part}1.txt", names)
        for name in names:
            paint(root / "dtd/dtd/images" / name)


def make_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    write(data / "variants.txt", ["707-320", "Boeing 717"])
    number = 0
    for part in ("train", "val", "test"):
        rows = []
        for variant in ("707-320", "Boeing 717"):
            for _ in range(4):
                number += 1
                rows.append(f"{number:07d} {variant}")
                paint(data / f"images/{number:07d}.jpg")
        write(data / f"images_variant_{part}.txt", rows)


def make_flowers(root: Path) -> None:
    folder = root / "flowers-102"
    for number in range(1, 25):
        paint(folder / f"jpg/image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.arange(24)[None] % 2 + 1})
    savemat(
        folder / "setid.mat",
        {k: np.arange(1, 9)[None] + 8 * i for i, k in enumerate(("trnid", "valid", "tstid"))},
    )


def make_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    for part in ("trainval", "test"):
        rows = [f"{c}_{part}{i}" for c in ("Abyssinian", "great_pyrenees") for i in range(8)]
        write(
            folder / f"annotations/{part}.txt", [f"{row} {1 + row.startswith('great')} 1 1" for row in rows]
        )
        for row in rows:
            paint(folder / f"images/{row}.jpg")


def make_cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    paths = [f"{c}/{c[4:]}_{i}.jpg" for c in ("001.Albatross", "002.Jay") for i in range(10)]
    for path in paths:
        paint(folder / "images" / path)
    write(folder / "classes.txt", ["1 001.Albatross", "2 002.Jay"])
    write(folder / "images.txt", [f"{i + 1} {path}" for i, path in enumerate(paths)])
    write(folder / "image_class_labels.txt", [f"{i + 1} {1 + i // 10}" for i in range(20)])
    write(folder / "train_test_split.txt", [f"{i + 1} {int(i % 2 == 0)}" for i in range(20)])


CASES: dict[str, tuple[Callable[[Path], None], dict[str, int]]] = {
    "dtd": (make_dtd, {"train": 8, "validation": 8, "test": 8}),
    "aircraft": (make_aircraft, {"train": 8, "validation": 8, "test": 8}),
    "flowers102": (make_flowers, {"train": 8, "validation": 8, "test": 8}),
    "pets": (make_pets, {"train": 14, "validation": 2, "test": 16}),
    "cub200": (make_cub, {"train": 9, "validation": 1, "test": 10}),
}


def ready(dataset: str, root: Path, **options: object) -> FineGrained:
    module = FineGrained(
        dataset=dataset, root=str(root), image_size=8, batch_size=4, download=False, **options
    )
    module.prepare()
    module.setup()
    return module


@pytest.mark.parametrize("dataset", CASES)
def test_published_splits(dataset: str, tmp_path: Path) -> None:
    make, sizes = CASES[dataset]
    make(tmp_path)
    module = ready(dataset, tmp_path)
    assert module.summary()["sizes"] == sizes and module.task.output_size == 2
    if sizes["validation"] == 8:
        joined = ready(dataset, tmp_path, published_validation=False, validation=0.25)
        assert joined.summary()["sizes"] == {"train": 12, "validation": 4, "test": 8}


@pytest.mark.parametrize(
    ("dataset", "kind", "parts"),
    [
        ("dtd", datasets.DTD, ("train", "val", "test")),
        ("aircraft", datasets.FGVCAircraft, ("train", "val", "test")),
        ("pets", datasets.OxfordIIITPet, ("trainval", "test")),
    ],
)
def test_labels_and_order_equal_torchvision(
    dataset: str, kind: type, parts: tuple[str, ...], tmp_path: Path
) -> None:
    CASES[dataset][0](tmp_path)
    layout = ready(dataset, tmp_path).layout()
    theirs = [kind(tmp_path, split=part)[i] for part in parts for i in range(len(kind(tmp_path, split=part)))]
    assert layout.labels.tolist() == [label for _, label in theirs]
    for path, (image, _) in zip(layout.paths, theirs, strict=True):
        assert np.array_equal(np.asarray(Image.open(layout.root / path)), np.asarray(image))


def test_a_missing_set_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CUB_200_2011 .*`root`"):
        FineGrained(dataset="cub200", root=str(tmp_path), batch_size=4).prepare()
    with pytest.raises(UserError, match="did you mean 'pets'"):
        FineGrained(dataset="pet", batch_size=4)
    make_pets(tmp_path)
    (tmp_path / "oxford-iiit-pet/annotations/test.txt").unlink()
    with pytest.raises(UserError, match=r"test\.txt cannot be read"):
        ready("pets", tmp_path)
