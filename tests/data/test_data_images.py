"""Named image sets and image folders: contents, subsets, normalisation, layouts, caches and broken files."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data import cache, image_folder
from tutelage.data.fingerprint import fingerprint
from tutelage.data.image_folder import ImageFolder
from tutelage.data.images import Digits, TorchvisionImages
from tutelage.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_digits_are_the_embedded_set() -> None:
    module = Digits(batch_size=128)
    module.setup()
    module.setup()
    summary = module.summary()
    assert summary["sizes"] == {"train": 1294, "validation": 144, "test": 359}
    assert module.input_shape == (1, 8, 8) and module.task.output_size == 10
    assert summary["split_sha256"]["test"].startswith("f6e75567c3494a0f")
    inputs = torch.cat([batch.inputs for batch in module.batches("train", device="cpu")])
    assert abs(inputs.mean()) < 1e-4 and abs(inputs.std() - 1) < 1e-3


def test_classes_are_renumbered_in_the_order_given() -> None:
    module = Digits(batch_size=8, classes=["7", 2, "4"], per_class=20, normalization=None)
    module.setup()
    whole = Digits(batch_size=8, normalization=None)
    whole.setup()
    batch = next(iter(module.batches("train", device="cpu")))
    original = torch.tensor([7, 2, 4])[batch.targets]
    assert torch.equal(whole.store.labels[batch.index], original)  # type: ignore[attr-defined]
    assert torch.equal(batch.inputs * 16, whole.store.images[batch.index].float())  # type: ignore[attr-defined]
    assert module.summary()["train_class_counts"] == [20, 20, 20]
    assert module.summary()["classes"] == ["7", "2", "4"]


def test_train_size_leaves_the_other_splits_alone() -> None:
    small, whole = (Digits(batch_size=8, train_size=size) for size in (100, None))
    for module in (small, whole):
        module.setup()
    a, b = small.summary()["split_sha256"], whole.summary()["split_sha256"]
    assert a["test"] == b["test"] and a["validation"] == b["validation"] and a["train"] != b["train"]
    assert len(small.splits["train"]) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["11"]}, "'11' does not exist"),
        ({"classes": ["1", 1]}, "occurs twice"),
        ({"per_class": 1000}, "choose from 1 to"),
        ({"train_size": 10_000}, "train_size=10000"),
        ({"validation": 1.5}, "validation"),
        ({"normalization": [[0.5], [0.0]]}, "positive"),
        ({"normalization": [[0.5, 0.5, 0.5], [1, 1, 1]]}, "1 numbers"),
    ],
)
def test_wrong_options_are_explained(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Digits(batch_size=8, **options).setup()


def test_a_missing_torchvision_set_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CIFAR10 is not complete in .*`root`"):
        TorchvisionImages(dataset="cifar10", root=str(tmp_path), download=False, batch_size=8).prepare()
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        TorchvisionImages(dataset="cifar_10", batch_size=8)


def test_mnist_files_in_a_folder(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, size in (("train", 50), ("t10k", 20)):
        for kind, dims in (("images-idx3", (size, 28, 28)), ("labels-idx1", (size,))):
            values = rng.integers(0, 10, dims, dtype=np.uint8)
            head = bytes([0, 0, 8, len(dims)]) + b"".join(d.to_bytes(4, "big") for d in dims)
            (raw / f"{part}-{kind}-ubyte").write_bytes(head + values.tobytes())
    module = TorchvisionImages(dataset="mnist", root=str(tmp_path), download=False, batch_size=8)
    module.prepare()
    module.setup()
    assert module.input_shape == (1, 28, 28)
    assert module.summary()["sizes"] == {"train": 45, "validation": 5, "test": 20}
    assert module.splits["test"].tolist() == list(range(50, 70))


def fill(folder: Path, *, count: int, seed: int, size: tuple[int, int] = (10, 8)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}_{i}.png")


def folder(root: Path, **options: object) -> ImageFolder:
    module = ImageFolder(root=root, **({"batch_size": 4, "num_workers": 0} | options))  # type: ignore[arg-type]
    module.prepare()
    module.setup()
    return module


@pytest.mark.parametrize("validation", [None, "val", "valid"])
def test_folders_state_their_splits(tmp_path: Path, validation: str | None) -> None:
    for seed, part in enumerate(["train", "test", *([validation] if validation else [])]):
        for k, label in enumerate(("cat", "dog")):
            fill(tmp_path / "set" / part / label, count=10 + seed, seed=10 * seed + k)
    sizes = folder(tmp_path / "set", image_size=8).summary()["sizes"]
    if validation:
        assert sizes == {"train": 20, "validation": 24, "test": 22}
    else:
        assert sizes == {"train": 18, "validation": 2, "test": 22}


def test_folders_that_are_splits_by_another_name_are_no_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seed, (part, label) in enumerate((p, c) for p in ("Training", "Test") for c in "ab"):
        fill(tmp_path / "set" / part / label, count=10, seed=seed)
    with pytest.raises(UserError, match="Test, Training hold folders of images"):
        folder(tmp_path / "set")
    for number, label in enumerate(("a", "testing")):  # a class may be called so
        fill(tmp_path / "plain" / label, count=10, seed=number)
    (tmp_path / "plain" / "c").mkdir()
    assert folder(tmp_path / "plain").summary()["classes"] == ["a", "testing"]
    assert "no image in c, which are left out of the classes" in caplog.text


def test_val_without_test_is_the_test_split(tmp_path: Path) -> None:
    for seed, (part, label) in enumerate((p, c) for p in ("train", "val") for c in "ab"):
        fill(tmp_path / "set" / part / label, count=10, seed=seed)
    module = folder(tmp_path / "set")
    assert module.splits["test"].tolist() == list(range(20, 40)) and len(module.splits["validation"]) == 2


def test_a_plain_folder_gets_a_test_split_and_a_class_may_be_called_train(tmp_path: Path) -> None:
    for seed, label in enumerate(("train", "plane")):
        fill(tmp_path / "set" / label, count=20, seed=seed)
    (tmp_path / "set" / ".hidden.png").write_bytes(b"")
    (tmp_path / "set" / "notes.txt").write_text("not an image")
    module = folder(tmp_path / "set")
    assert module.summary()["classes"] == ["plane", "train"]
    assert module.summary()["sizes"] == {"train": 29, "validation": 3, "test": 8}


def test_decoding_cuts_the_centre_and_equals_pillow(tmp_path: Path) -> None:
    for seed, label in enumerate("ab"):
        fill(tmp_path / "set" / label, count=10, seed=seed, size=(16, 30))
    module = folder(tmp_path / "set", image_size=8, normalization=None)
    batch = next(iter(module.batches("train", device="cpu")))
    paths = sorted((tmp_path / "set").rglob("*.png"))
    for index, got in zip(batch.index.tolist(), batch.inputs, strict=True):
        image = Image.open(paths[index]).resize((8, 8), Image.Resampling.BILINEAR, box=(7, 0, 23, 16))
        assert np.array_equal(
            np.asarray(image).transpose(2, 0, 1), (got * 255).round().numpy().astype(np.uint8)
        )
    grey = folder(tmp_path / "set", image_size=8, channels=1)
    assert grey.input_shape == (1, 8, 8)


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path, size: int | None, channels: int) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(ramp).save(tmp_path / "set" / label / f"{number}.png")
    module = folder(tmp_path / "set", image_size=size, normalization=None, channels=channels)
    image = next(iter(module.batches("train", device="cpu"))).inputs[0]
    expected = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    if size is not None:
        expected = expected.resize((size, size), Image.Resampling.BILINEAR)
    for channel in image:
        np.testing.assert_allclose((channel * 255).numpy(), np.asarray(expected), atol=1.01)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "set" / "a" / "0.tif")
    with pytest.raises(UserError, match=r"32 bits from 0 to 65535, .*set `white` .*65535, say"):
        folder(tmp_path / "set", image_size=8)


def test_a_set_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, label in enumerate("ab"):
        fill(tmp_path / "set" / label, count=10, seed=seed)
    first = folder(tmp_path / "set", image_size=8)
    cache.forget()
    monkeypatch.setattr(image_folder, "_decode_all", lambda *_: pytest.fail("decoded again"))
    shutil.move(tmp_path / "set", tmp_path / "moved")
    second = folder(tmp_path / "moved", image_size=8)
    assert torch.equal(first.store.images, second.store.images)  # type: ignore[attr-defined]
    assert first.summary() == second.summary()


def test_broken_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        folder(tmp_path / "nowhere")
    (tmp_path / "set" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no images: expected root/<class>"):
        folder(tmp_path / "set")
    for seed, label in enumerate("ab"):
        fill(tmp_path / "set" / label, count=6, seed=seed)
    fill(tmp_path / "set" / "b", count=1, seed=7, size=(5, 5))
    with pytest.raises(UserError, match=r"0.png has 8x10 pixels, .*b/7_0.png has 5x5: set `image_size`"):
        folder(tmp_path / "set")
    broken = tmp_path / "set" / "b" / "1_3.png"
    broken.write_bytes(b"no image at all")
    with pytest.raises(UserError, match=r"cannot read the image .*1_3\.png"):
        folder(tmp_path / "set", image_size=8)
    assert not list((tmp_path / "cache" / "decoded").glob("*/images.npy"))
    broken.unlink()
    folder(tmp_path / "set", image_size=8)
    for part, label in (("train", "x"), ("train", "y"), ("test", "z")):
        fill(tmp_path / "parts" / part / label, count=3, seed=1)
    with pytest.raises(UserError, match="classes that train/ lacks: z"):
        folder(tmp_path / "parts")


def test_equal_images_on_both_sides_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed, (part, label) in enumerate((p, c) for p in ("train", "test") for c in "ab"):
        fill(tmp_path / "set" / part / label, count=10, seed=seed)
    for i in range(3):
        shutil.copy(tmp_path / "set/train/a" / f"0_{i}.png", tmp_path / "set/test/a" / f"copy_{i}.png")
    module = folder(tmp_path / "set")
    assert "identical content" in caplog.text
    assert sum(module.summary()["repeated_samples"].values()) == 3


def test_an_unwritable_cache_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for seed, label in enumerate("ab"):
        fill(tmp_path / "set" / label, count=10, seed=seed)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "file" / "cache"))
    module = folder(tmp_path / "set", image_size=8)
    assert "TUTELAGE_CACHE" in caplog.text
    assert len(list(module.batches("train", device="cpu"))) > 0


def test_a_transformed_set_of_equal_names_and_sizes_is_another_set(tmp_path: Path) -> None:
    for name, value in (("bright", 200), ("dark", 60), ("bright again", 200)):
        for number in range(500):
            path = tmp_path / name / f"{number}.bin"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes([value]) * 32)
    bright, dark, again = (fingerprint(tmp_path / name) for name in ("bright", "dark", "bright again"))
    assert bright == again != dark


def test_fingerprints_follow_content_not_place(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "a", count=2, seed=0)
    before = fingerprint(tmp_path / "set")
    shutil.copytree(tmp_path / "set", tmp_path / "other")
    (tmp_path / "other" / ".DS_Store").write_bytes(b"x")
    assert fingerprint(tmp_path / "other") == before
    (tmp_path / "other" / "a" / "new.txt").write_bytes(b"x")
    assert fingerprint(tmp_path / "other") != before
    file = tmp_path / "file.csv"
    file.write_text("1")
    one = fingerprint(file)
    file.write_text("2")
    assert fingerprint(file) != one
    few = fingerprint(tmp_path)
    file.write_text("3")
    assert fingerprint(tmp_path) != few  # the same name and size
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text("")
    many = fingerprint(tmp_path)
    (tmp_path / "0.txt").write_text("1")
    assert fingerprint(tmp_path) != many
    with pytest.raises(UserError, match="there is no"):
        fingerprint(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["SVHN", "STL10"])
def test_sets_with_named_splits_and_images_without_labels(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    class Small:
        def __init__(self, root: str, *, split: str, download: bool) -> None:
            count = {"train": 60, "test": 20, "unlabeled": 40}[split]
            self.data = np.full((count, 3, 8, 8), count, dtype=np.uint8)
            self.labels = None if split == "unlabeled" else np.arange(count) % 10

    monkeypatch.setattr(datasets, name, Small)
    module = TorchvisionImages(
        dataset=name.lower(), root=str(tmp_path), download=False, batch_size=8, per_class=2, validation=10
    )
    module.setup()
    assert module.input_shape == (3, 8, 8)
    assert module.summary()["sizes"] == {"train": 20, "validation": 10, "test": 20}
    images, index, *_ = module.unlabelled("rest")
    unlabelled = images[torch.from_numpy(index), 0, 0, 0].tolist()
    assert unlabelled.count(60) == 30 and unlabelled.count(20) == 0
    assert unlabelled.count(40) == (40 if name == "STL10" else 0)


def _svhn_files(root: Path, images: np.ndarray, labels: np.ndarray) -> list[Path]:
    """Write what the set's pages publish: matrices (32, 32, 3, n) and classes of which 10 is the digit 0."""
    from scipy.io import savemat

    paths = []
    for split, count in (("train", 30), ("test", 10)):
        paths.append(root / f"{split}_32x32.mat")
        content = {
            "X": images[:count].transpose(2, 3, 1, 0),
            "y": np.where(labels == 0, 10, labels)[:count, None],
        }
        savemat(paths[-1], content)
    return paths


def _stl10_files(root: Path, images: np.ndarray, labels: np.ndarray) -> list[Path]:
    """Write what the set's pages publish: bytes of images column by column, and of classes from 1."""
    folder = root / "stl10_binary"
    folder.mkdir()
    images.transpose(0, 1, 3, 2).tofile(folder / "unlabeled_X.bin")
    for split, count in (("train", 30), ("test", 10)):
        images[:count].transpose(0, 1, 3, 2).tofile(folder / f"{split}_X.bin")
        (labels[:count] + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("name", ["SVHN", "STL10"])
def test_files_as_they_are_published_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    side = {"SVHN": 32, "STL10": 96}[name]
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 3, side, side), dtype=np.uint8)
    labels = np.arange(40) % 10
    paths = {"SVHN": _svhn_files, "STL10": _stl10_files}[name](tmp_path, images, labels)
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in paths}
    kind = getattr(datasets, name)
    if name == "SVHN":
        listed = {split: [url, file, sums.get(file, "")] for split, (url, file, _) in kind.split_list.items()}
        monkeypatch.setattr(kind, "split_list", listed)
    else:
        for part in ("train_list", "test_list"):
            listed = [[file, sums.get(file, "")] for file, _ in getattr(kind, part)]
            monkeypatch.setattr(kind, part, [one for one in listed if one[1]])
    module = TorchvisionImages(
        dataset=name.lower(),
        root=str(tmp_path),
        download=False,
        batch_size=8,
        validation=10,
        normalization=None,
    )
    module.setup()
    assert module.input_shape == (3, side, side)
    assert module.summary()["sizes"] == {"train": 20, "validation": 10, "test": 10}
    for batch in module.batches("validation", device="cpu"):
        for image, target in zip(batch.inputs, batch.targets, strict=True):
            (place,) = (k for k in range(30) if np.allclose(image.numpy() * 255, images[k], atol=0.01))
            assert int(target) == labels[place]
    if name == "STL10":
        seen, index, *_ = module.unlabelled("rest")
        assert len(index) == 40 and tuple(seen.shape[1:]) == (3, 96, 96)
