"""Image folders as users have them: what is left out is counted, what cannot be read is named at once, what is deep or turned is said."""

from __future__ import annotations

import logging
import os
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data import cache, image_check
from tutelage.data.fingerprint import fingerprint
from tutelage.data.image_files import UnreadableImages
from tutelage.data.image_folder import ImageFolder
from tutelage.data.image_layout import read_layout
from tutelage.errors import UserError
from tutelage.tasks import NoTargets


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, logger="tutelage")
    cache.forget()


def draw(root: Path, count: int = 10, classes: tuple[str, ...] = ("a", "b"), ending: str = "png") -> Path:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.random.default_rng([label, number]).integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.{ending}")
    return root


def ready(root: Path, **options: object) -> ImageFolder:
    options = {"batch_size": 4, "num_workers": 0, "normalization": None} | options
    module = ImageFolder(root=root, **options)  # type: ignore[arg-type]
    module.prepare()
    module.setup()
    return module


def images(module: ImageFolder) -> dict[int, torch.Tensor]:
    batches = list(module.batches("train", device="cpu"))
    return {int(i): image for batch in batches for i, image in zip(batch.index, batch.inputs, strict=True)}


STORAGE = pytest.mark.parametrize("storage", ["resident", "stream"])


def test_endings_that_pillow_reads_are_images_and_other_files_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw(tmp_path / "set")
    for number in range(4):
        (root / "a" / f"{number}.png").rename(root / "a" / f"{number}.JFIF")  # Pillow looks inside
    for name in ("notes.txt", "a/labels.csv", "b/movie.mp4", "b/readme", "b/other.txt"):
        (root / name).write_text("x")
    for name in (".DS_Store", "a/Thumbs.db", "desktop.ini", "__MACOSX/a.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    module = ready(root)
    assert sum(module.summary()["sizes"].values()) == 20
    said = (
        "5 files are no images that this Pillow reads, left out: 2 .txt, 1 .csv, 1 .mp4, 1 without an ending"
    )
    assert said in caplog.text and "Thumbs" not in caplog.text and "MACOSX" not in caplog.text
    assert any(said in note for note in module.summary()["left_out"])


def test_images_outside_the_class_folders_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw(tmp_path / "set" / "train").parent
    draw(root / "test")
    draw(root / "extra", count=3)
    Image.new("RGB", (8, 8)).save(root / "train" / "stray.png")
    assert sum(ready(root).summary()["sizes"].values()) == 40
    assert "7 images lie outside the class folders of train, val and test" in caplog.text
    assert "3 in extra/a, 3 in extra/b, 1 in train" in caplog.text


@STORAGE
@pytest.mark.parametrize("form", ["flat", "one class", "parts"])
def test_images_without_classes_are_taken_as_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, storage: str, form: str
) -> None:
    caplog.set_level("INFO")
    root = draw(tmp_path / "set", count=10)
    for number, place in enumerate(sorted(root.glob("*/*"))):
        part = {"flat": ".", "one class": "all", "parts": "test" if number < 6 else "train"}[form]
        (root / part).mkdir(exist_ok=True)
        place.rename(root / part / f"{number}.png")
    module = ready(root, storage=storage, image_size=8)
    sizes = module.summary()["sizes"]
    assert isinstance(module.task, NoTargets) and "classes" not in module.facts
    assert sizes["test"] == (6 if form == "parts" else 4) and sum(sizes.values()) == 20
    assert "20 images in " in caplog.text and "taken as images without classes" in caplog.text
    batch = next(iter(module.batches("train", device="cpu")))
    assert batch.inputs.shape[1:] == (3, 8, 8) and not batch.targets.any()
    for word in ({"label_noise": 0.1}, {"per_class": 2}, {"classes": ["a"]}, {"sampling": "balanced"}):
        with pytest.raises(UserError, match=f"`{next(iter(word))}`=.*these images have no classes"):
            ready(root, storage=storage, image_size=8, **word)


@STORAGE
def test_all_that_cannot_be_read_is_named_at_once(tmp_path: Path, storage: str) -> None:
    root = draw(tmp_path / "set", count=20)
    cut, empty, text = (root / "a" / f"{n}.png" for n in (3, 7, 9))
    cut.write_bytes(cut.read_bytes()[:120])
    empty.write_bytes(b"")
    text.write_text("<html>not found</html>")
    with pytest.raises(UnreadableImages) as caught:
        ready(root, storage=storage, image_size=8)
    said = str(caught.value)
    assert "cannot read 3 of 40 images" in said and "a/7.png: it is empty" in said
    assert "a/9.png: it is no image that this Pillow reads; it begins with b'<html>not fo'" in said
    assert caught.value.facts["damaged"] == ["a/3.png", "a/7.png", "a/9.png"]
    for path in (cut, empty, text):
        path.unlink()
    assert caught.value.facts["rest"] == fingerprint(root, "images")
    assert len(ready(root, storage=storage, image_size=8).source().labels) == 37


def test_what_was_looked_at_is_kept_and_only_new_and_changed_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw(tmp_path / "set")
    looked: list[list[int]] = []
    look_at = image_check._look_at
    monkeypatch.setattr(image_check, "_look_at", lambda f, p, s: (looked.append(p), look_at(f, p, s))[1])
    options = {"storage": "stream", "image_size": 8}

    def again() -> None:
        cache.forget()
        ready(root, **options)

    again()
    again()
    Image.new("RGB", (8, 8)).save(root / "a" / "new.png")
    again()
    os.utime(root / "b" / "3.png", ns=(1, 1))
    again()
    assert [len(places) for places in looked] == [20, 1, 1]
    (root / "b" / "4.png").write_bytes(b"damaged later")
    for _ in range(2):  # what cannot be read is never taken for known
        with pytest.raises(UserError, match=r"b/4\.png"):
            again()
    next((tmp_path / "cache" / "looked_at").iterdir()).write_bytes(b"torn")
    (root / "b" / "4.png").unlink()
    again()
    assert len(looked[-1]) == 20


def test_without_the_check_a_damaged_file_stops_the_step_that_meets_it(tmp_path: Path) -> None:
    root = draw(tmp_path / "set")
    for number in range(10):
        (root / "b" / f"{number}.png").write_bytes(b"damaged")
    module = ready(root, storage="stream", image_size=8, check_files=False)
    assert module.summary()["repeated_samples"] is None
    with pytest.raises(UserError, match="cannot read the image") as caught:
        list(module.batches("train", device="cpu"))
    sent = pickle.loads(pickle.dumps(caught.value))  # as a worker sends it
    assert sent.facts == caught.value.facts and sent.facts["damaged"]


@STORAGE
def test_images_of_several_sizes_are_named_before_training(tmp_path: Path, storage: str) -> None:
    root = draw(tmp_path / "set")
    Image.new("RGB", (5, 6)).save(root / "b" / "9.png")
    with pytest.raises(UserError, match=r"0.png has 8x8 pixels, b/9.png has 5x6: set `image_size`"):
        ready(root, storage=storage)


@STORAGE
def test_sixteen_bits_are_kept_by_either_storage(
    tmp_path: Path, storage: str, caplog: pytest.LogCaptureFixture
) -> None:
    values = 1000 + np.arange(64).reshape(8, 8)
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(10):
            Image.fromarray((values + number).astype(np.uint16)).save(
                tmp_path / "set" / label / f"{number}.png"
            )
    module = ready(tmp_path / "set", storage=storage, channels=1)
    for index, image in images(module).items():
        np.testing.assert_allclose(image[0].numpy() * 65535, values + index % 10, atol=0.01)
    assert (
        "20 of 20 images (such as a/0.png) have 16 bits a value and keep them; the largest is 1,072"
        in caplog.text
    )
    assert "`white`, 4095 for 12 bits" in caplog.text and module.summary()["files"] == {"deep": 20}
    module = ready(tmp_path / "set", storage=storage, channels=1, white=4095)
    assert max(image.max() for image in images(module).values()) == pytest.approx(1072 / 4095)
    normalised = ready(tmp_path / "set", storage=storage, channels=1, normalization="train")
    values_in = torch.stack(list(images(normalised).values()))
    assert abs(float(values_in.mean())) < 1e-3 and float(values_in.std()) == pytest.approx(1, abs=1e-2)


@STORAGE
@pytest.mark.parametrize("first", ["a", "b"])
def test_images_of_8_and_of_16_bits_in_one_set(tmp_path: Path, storage: str, first: str) -> None:
    """Both are scaled by what white is in them; where 16 bits hold small values alone, nobody knows what that is."""
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(10):
            grey = np.full((8, 8), 100 + number, np.uint8)
            deep = np.full((8, 8), (100 + number) * 257 + 100, np.uint16)
            Image.fromarray(grey if label == first else deep).save(tmp_path / "set" / label / f"{number}.png")
    for path in (tmp_path / "set").glob("*/9.png"):
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(path)
    module = ready(tmp_path / "set", storage=storage, channels=1, white=65535)
    for index, image in images(module).items():
        value = 255 if index % 10 == 9 else 100 + index % 10
        more = 100 / 65535 if "ab"[index // 10] != first and value < 255 else 0.0  # what 8 bits do not hold
        torch.testing.assert_close(image, torch.full((1, 8, 8), value / 255 + more), atol=1e-6, rtol=0)
    with pytest.raises(
        UserError, match=r"9 of 20 images have 16 bits a value, the largest being 27,856 .*`white`, 4095"
    ):
        ready(tmp_path / "set", storage=storage, channels=1)


@STORAGE
def test_augmentations_of_deep_images(tmp_path: Path, storage: str) -> None:
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(
                tmp_path / "set" / label / f"{number}.png"
            )
    with pytest.raises(UserError, match="RandAugment in `augment` works on images of 8 bits"):
        ready(tmp_path / "set", storage=storage, augment={"rand_augment": {}})
    module = ready(
        tmp_path / "set", storage=storage, augment={"cutout": {"size": 0.5}, "horizontal_flip": {}}
    )
    (batch,) = list(module.train_stream(seed=0, device="cpu"))[:1]
    assert set(batch.inputs.unique().tolist()) == {0.5, 1.0}  # white, covered with grey


def test_a_set_decoded_with_other_settings_is_another(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(10):
            Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "set" / label / f"{number}.png")
    seen = {
        name: float(next(iter(images(ready(tmp_path / "set", background=name)).values())).mean())
        for name in ("white", "black")
    }
    assert seen == {"white": 1.0, "black": 0.0}
    red = next(iter(images(ready(tmp_path / "set", background=[255, 0, 51])).values()))
    torch.testing.assert_close(red[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))
    for wrong in ("transparent", [1, 2], [0, 0, 256], [0.5, 0.5, 0.5]):
        with pytest.raises(
            UserError, match=r"`background` must be one of white, black or a list of 3 values"
        ):
            ImageFolder(root=tmp_path, batch_size=4, background=wrong)
    with pytest.raises(UserError, match=r"`white` must be a number above 0"):
        ImageFolder(root=tmp_path, batch_size=4, white=0)


@STORAGE
def test_names_that_are_no_utf8_are_read_and_recorded(
    tmp_path: Path, storage: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw(tmp_path / "set")
    os.rename(root / "a" / "0.png", os.fsencode(root) + b"/a/caf\xe9.png")  # noqa: PTH104
    os.rename(root / "b", os.fsencode(root) + b"/\xe4pfel")  # noqa: PTH104
    module = ready(root, storage=storage, image_size=8)
    summary = module.summary()
    assert sum(summary["sizes"].values()) == 20 and summary["classes"] == ["\\xe4pfel", "a"]
    str(summary).encode()  # it can be written and printed
    Path(os.fsdecode(os.fsencode(root) + b"/a/caf\xe9.png")).write_bytes(b"")
    with caplog.at_level("DEBUG", "tutelage"), pytest.raises(UserError, match=r"caf\\xe9\.png"):
        ready(root, storage=storage, image_size=8, split_seed=1, fingerprint="other")
    caplog.text.encode()  # its traceback is kept, in a log of UTF-8


def test_links_that_cannot_be_followed_are_named_and_others_are_followed(tmp_path: Path) -> None:
    root = draw(tmp_path / "set")
    elsewhere = draw(tmp_path / "elsewhere", classes=("c",))
    (root / "c").symlink_to(elsewhere / "c")
    (root / "a" / "more.png").symlink_to(elsewhere / "c" / "0.png")
    assert sum(ready(root).summary()["sizes"].values()) == 31
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    (root / "a" / "self.png").symlink_to("self.png")
    (root / "b" / "loop").symlink_to("..")
    with pytest.raises(UserError) as caught:
        fingerprint(root, "images")
    for part in ("a/gone.png (leads nowhere)", "a/self.png (leads to itself)", "b/loop (leads back to a folder it lies in)"):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    root = draw(tmp_path / "set")
    before = fingerprint(root, "images")
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "folder.png").mkdir()
    assert fingerprint(root, "images") == before
    assert sum(ready(root).summary()["sizes"].values()) == 20


def test_accents_stored_in_either_way_are_one_class_and_one_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for name, form in (("composed", composed), ("decomposed", decomposed)):
        for part in ("train", "test"):
            draw(tmp_path / name / part, classes=(form, "bar"))
    assert fingerprint(tmp_path / "composed", "images") == fingerprint(tmp_path / "decomposed", "images")
    first, second = (read_layout(tmp_path / name) for name in ("composed", "decomposed"))
    assert first.class_names == second.class_names == ["bar", composed]
    assert [unicodedata.normalize("NFC", path) for path in second.paths] == first.paths
    mixed = draw(tmp_path / "mixed" / "train", classes=(composed, "bar")).parent
    draw(mixed / "test", classes=(decomposed, "bar"))
    assert read_layout(mixed).labels[read_layout(mixed).official["test"]].tolist() == [0] * 10 + [1] * 10
    (mixed / "train" / decomposed).mkdir(exist_ok=True)
    if len(list((mixed / "train").iterdir())) == 3:  # not so where the file system composes names
        draw(mixed / "train", classes=(decomposed,))
        assert any("are taken for one class: café" in note for note in read_layout(mixed).notes)


def test_class_names_that_differ_in_case_are_said(tmp_path: Path) -> None:
    root = draw(tmp_path / "set", classes=("Cat", "cat", "dog"))
    if len(list(root.iterdir())) == 3:
        assert any(
            "differ in upper and lower case alone: Cat and cat" in note for note in read_layout(root).notes
        )
    draw(tmp_path / "other" / "train", classes=("cat", "dog"))
    draw(tmp_path / "other" / "test", classes=("Cat", "dog"))
    with pytest.raises(UserError, match="classes that train/ lacks: Cat; did you mean 'cat'"):
        read_layout(tmp_path / "other")


def test_a_note_beside_the_images_makes_no_other_set(tmp_path: Path) -> None:
    root = draw(tmp_path / "set")
    before = fingerprint(root, "images"), fingerprint(root)
    (root / "README.md").write_text("x")
    (root / "a" / "Thumbs.db").write_text("x")
    assert fingerprint(root, "images") == before[0] and fingerprint(root) != before[1]
    (root / "README.md").unlink()
    assert fingerprint(root) == before[1]


def test_images_that_went_missing_leave_all_others_in_their_splits(tmp_path: Path) -> None:
    root = draw(tmp_path / "set", count=20)
    whole = ready(root, image_size=8)
    for storage in ("resident", "stream"):
        for name in ("a/3.png", "b/11.png"):
            (root / name).unlink(missing_ok=True)
        left = ready(root, image_size=8, storage=storage, absent=["a/3.png", "b/11.png"])
        paths = whole.source().labels  # places are those of the whole set
        assert len(left.source().labels) == len(paths) == 40
        gone = {int(i) for i in read_layout(root, ["a/3.png", "b/11.png"]).absent}
        for split, indices in whole.splits.items():
            assert left.splits[split].tolist() == [i for i in indices.tolist() if i not in gone]
        ours, theirs = images(whole), images(left)
        assert all(torch.equal(theirs[i], ours[i]) for i in theirs)
        assert left.summary()["absent"] == ["a/3.png", "b/11.png"]


def test_of_many_unreadable_images_a_hundred_are_named() -> None:
    def said(count: int) -> str:
        return str(UnreadableImages(Path("set"), {f"{i:03}.png": "torn" for i in range(count)}, tried=500))

    assert "cannot read 100 of 500 images" in said(100) and "more" not in said(100)
    assert "099.png" in said(100) and "  and 1 more\n" in said(101) and "100.png" not in said(101)


@pytest.mark.parametrize("white", [0, -1, float("inf"), float("nan")])
def test_white_is_a_number_above_zero(tmp_path: Path, white: float) -> None:
    with pytest.raises(UserError, match="`white` must be a number above 0"):
        ImageFolder(root=tmp_path, batch_size=4, white=white)
