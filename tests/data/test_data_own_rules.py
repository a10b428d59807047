"""What targets of one's own are taken for, what is said of images, and the vocabulary of texts: each rule and line as it stands."""

from __future__ import annotations

import logging
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from expected import refused
from tutelage.data import image_check, image_pixels, own, own_source, text_rows
from tutelage.data.image_pixels import Fact, Form
from tutelage.data.own import Own


def task(targets, kind=None, outputs=None):
    return Own(source=None, task=kind, outputs=outputs, batch_size=2)._task(torch.tensor(targets))


@pytest.mark.parametrize(("targets", "kind", "outputs", "name", "size"), [
    ([0, 2, 1], None, None, "Classification", 3), ([0, 1], None, 5, "Classification", 5),
    ([0.0, 2.0], "classification", None, "Classification", 3),
    ([0, 1], "binary", None, "Binary", 1), ([0.5, 1.0], None, None, "Regression", 1), ([[1.0, 2.0, 3.0]], None, None, "Regression", 3),
    ([[1, 0], [0, 1]], "multi_label", None, "MultiLabel", 2), ([[1, 2], [3, 4]], None, None, "Regression", 2),
    ([1.0, 2.0], "regression", 4, "Regression", 4),
    ([0, 1], "regression", None, "Regression", 1), ([[1], [0]], None, None, "Regression", 1),
])  # fmt: skip
def test_what_targets_are_taken_for(targets, kind, outputs, name, size):
    found = task(targets, kind, outputs)
    assert (type(found).__name__, found.output_size) == (name, size)


@pytest.mark.parametrize(("targets", "kind", "outputs", "said"), [
    ([[0, 1]], "classification", None, "`task`=classification takes targets (n,) of whole numbers, got (1, 2) of torch.int64"),
    ([0.5, 1.0], "binary", None, "`task`=binary takes targets (n,) of whole numbers, got (2,) of torch.float32"),
    ([0, 3], None, 3, "classes are 0 to 2, the targets 0 to 3"), ([-1, 1], None, None, "classes are 0 to 1, the targets -1 to 1"),
    ([0, 2], "binary", None, "`task`=binary takes targets 0 and 1, got up to 2"),
    ([0, 0], None, None, "the targets hold one class only: there is nothing to tell apart"),
    ([0, 2], "binary", 1, "classes are 0 to 0, the targets 0 to 2"),
])  # fmt: skip
def test_targets_that_are_none(targets, kind, outputs, said):
    assert refused(task, targets, kind, outputs) == said


ONES = (torch.ones(2, 2), torch.ones(2))


class Pairs(torch.utils.data.Dataset):
    """Four samples."""

    def __len__(self):
        return 4

    def __getitem__(self, place):
        return torch.full((2,), float(place)), place


class LightningDataModule:
    """As much of one as is asked for."""

    def __init__(self, **loaders):
        self.loaders = loaders

    def prepare_data(self):
        """Nothing to do."""

    def setup(self, stage):
        """Nothing to do."""

    def __getattr__(self, name):
        if name not in self.loaders:
            raise AttributeError(name)
        return lambda: self.loaders[name]


LOADER, OTHER = DataLoader(Pairs()), DataLoader(Pairs(), collate_fn=list)


@pytest.mark.parametrize(("source", "parts", "collate"), [
    ((torch.ones(3, 2), np.arange(3)), {"": 3}, None), ([torch.ones(3, 2), torch.ones(3)], {"": 3}, None), (Pairs(), {"": 4}, None),
    (LOADER, {"": 4}, None), (OTHER, {"": 4}, list), ((Pairs(), ONES), {"train": 4, "test": 2}, None),
    ([ONES, OTHER, LOADER], {"train": 2, "validation": 4, "test": 4}, list),
    ({"validation": ONES, "train": Pairs()}, {"validation": 2, "train": 4}, None),
    (LightningDataModule(train_dataloader=LOADER), {"train": 4}, None),
    (LightningDataModule(train_dataloader=[OTHER, LOADER], val_dataloader=[], test_dataloader=(LOADER,)), {"train": 4, "test": 4}, list),
    (LightningDataModule(train_dataloader=LOADER, val_dataloader=None, test_dataloader=OTHER), {"train": 4, "test": 4}, list),
    ([1], {"": 1}, None), ([1] * 4, {"": 4}, None),  # samples
])  # fmt: skip
def test_the_parts_of_a_source(source, parts, collate):
    found, way = own_source.parts_of(source)
    assert ({name: len(part) for name, part in found.items()}, way) == (parts, collate)


@pytest.mark.parametrize(("source", "said"), [
    (LightningDataModule(val_dataloader=LOADER), "`source`: LightningDataModule.train_dataloader fails: train_dataloader"),
    ({"trian": ONES}, "`source` gives a part 'trian'; did you mean 'train'? Known: test, train, validation"),
    (5, f"`source` must give {own_source.EXPECTED}; got int"),
    ({"train": 3, "test": ONES}, f"`source` must give {own_source.EXPECTED}; got int for train"),
    ({1, 2}, f"`source` must give {own_source.EXPECTED}; got set"),
])  # fmt: skip
def test_what_is_no_source(source, said):
    assert refused(own_source.parts_of, source) == said


@pytest.mark.parametrize(("pair", "found"), [
    ((1, 2), (1, 2)), ([1, 2, 3], (1, 2)), ({"inputs": 1, "targets": 2, "x": 3, "y": 4}, (1, 2)), ({"image": 1, "label": 2}, (1, 2)),
    ({"input_ids": 1, "labels": 2}, (1, 2)), ({"x": 1, "y": 2}, (1, 2)), ({"x": 1, "label": 2}, "one of x, label"), ((1,), "tuple"),
    ([], "list"),
    ("xy", "str"), (torch.ones(2), "Tensor"),
])  # fmt: skip
def test_a_sample_is_a_pair_or_names_what_it_holds(pair, found):
    if isinstance(found, tuple):
        assert own_source.pair_of(pair) == found
        return
    said = "`source`: a sample must be (input, target), or a dictionary with inputs and targets; got "
    assert refused(own_source.pair_of, pair) == said + found


def test_targets_of_values_are_columns_and_others_whole_numbers():
    for shape, floats in (((3,), (3, 1)), ((3, 2), (3, 2)), ((3, 2, 4), (3, 8))):
        found = own_source.as_targets(torch.ones(shape, dtype=torch.int32), floats=True)
        assert found.shape == floats and found.dtype == torch.float32
        assert own_source.as_targets(torch.ones(shape), floats=False).shape == shape
    assert own_source.as_targets(torch.ones(3), floats=False).dtype == torch.int64


def test_samples_are_as_many_as_targets_and_finite():
    data = Own(source=None, batch_size=2)
    data._check(torch.ones(2, 3), torch.ones(2, 1))
    assert refused(data._check, torch.ones(2, 3), torch.ones(3, 1)) == "`source` gives 2 inputs and 3 targets"
    assert refused(data._check, torch.ones(0, 3), torch.ones(0, 1)) == "`source` gives 0 inputs and 0 targets"
    odd = torch.tensor([[1.0, float("nan")], [1.0, 2.0], [float("inf"), 0.0]])
    said = "`source`: 2 of 3 {} hold values that are no finite numbers (NaN or infinite)"
    assert refused(data._check, odd, torch.ones(3, 1)) == said.format("inputs")
    assert refused(data._check, torch.ones(3, 1), odd) == said.format("targets")
    data._check(torch.ones(3, 1, dtype=torch.long), torch.ones(3, dtype=torch.long))


@pytest.mark.parametrize(
    ("kind", "made"),
    [(torch.uint8, torch.float32), (torch.int32, torch.int64), (torch.float64, torch.float32)],
)
def test_pairs_become_batches(kind, made):
    store = own.ItemStore([], None, floats=False, num_workers=0)
    batch = store.finish((torch.ones(2, 3, dtype=kind), [1, 2]), torch.tensor([5, 6]))
    assert batch.inputs.dtype == made and batch.targets.tolist() == [1, 2] and batch.index.tolist() == [5, 6]
    assert store.draws == 0 and store.to(torch.device("cpu")).device == torch.device("cpu")


# --- what is said of images -------------------------------------------------------------------------------------


def told(caplog, counts, *, largest=1.0, white=None, absent=0, notes=(), total=1200):
    caplog.set_level(logging.INFO, "tutelage")
    caplog.clear()

    class Files:
        layout = SimpleNamespace(notes=notes, absent=range(absent))
        form = SimpleNamespace(white=white, background=(1, 2, 3))

        def __len__(self):
            return total

    found = image_check.Found(counts, {fact: f"{fact}.png" for fact in counts}, largest)
    image_check.say(found, Files())
    return [("! " if one.levelno > logging.INFO else "") + one.getMessage() for one in caplog.records]


def test_what_images_are_beyond_plain_pixels(caplog):
    counts = {"turned": 1, "transparent": 2, "inks": 3, "profile": 4, "frames": 5, "reduced": 1100}
    assert told(caplog, counts, notes=["a note"]) == [
        "! a note",
        "1 of 1,200 images (such as turned.png) are stored turned or mirrored, with a note that says so: set upright",
        "2 of 1,200 images (such as transparent.png) are transparent in part: laid on the `background`, [1, 2, 3]",
        "! 3 of 1,200 images (such as inks.png) are of printing inks (CMYK): turned into colours without a colour profile",
        "! 4 of 1,200 images (such as profile.png) have a colour profile other than sRGB, which is not applied",
        "! 5 of 1,200 images (such as frames.png) have several frames or pages, of which the first is read",
        "! 1,100 of 1,200 images (such as reduced.png) have more than 8 bits a colour, of which Pillow gives 8",
    ]
    assert told(caplog, {}) == []


ADVICE = "white is taken to be 65,535. If they hold fewer bits, say so by `white`, 4095 for 12 bits, 1023 for 10, 16383 for 14"
DEEP = "1,200 of 1,200 images (such as deep.png) have "


@pytest.mark.parametrize(("count", "largest", "white", "absent", "line"), [
    (1200, 1.0, None, 0, DEEP + "more than 8 bits a value and keep them, white being as the files say"),
    (1200, 0.5, None, 0, DEEP + "more than 8 bits a value and keep them, white being as the files say"),
    (1200, 0.1, 4095.0, 0, DEEP + "more than 8 bits a value and keep them, white being 4095"),
    (1200, 0.49, None, 0, f"! {DEEP}16 bits a value and keep them; the largest is 32,112, {ADVICE}"),
    (1195, 0.1, None, 5, f"! {DEEP.replace('1,200', '1,195', 1)}16 bits a value and keep them; the largest is 6,554, {ADVICE}"),
    (1195, 0.6, None, 0, f"{DEEP.replace('1,200', '1,195', 1)}more than 8 bits a value and keep them, white being as the files say"),
])  # fmt: skip
def test_images_of_more_than_eight_bits(caplog, count, largest, white, absent, line):
    assert told(caplog, {"deep": count}, largest=largest, white=white, absent=absent) == [line]


def test_unused_bits_beside_images_of_eight_are_refused(caplog):
    assert refused(told, caplog, {"deep": 1195}, largest=0.1, absent=4) == (
        "1,195 of 1,200 images have 16 bits a value, the largest being 6,554 (such as deep.png), and the others have 8: "
        f"{ADVICE}, so that both can be compared"
    )


def test_facts_are_counted_with_their_first_example():
    files = SimpleNamespace(layout=SimpleNamespace(paths=[f"{place}.png" for place in range(9)]))
    facts = np.array([int(Fact.TURNED), int(Fact.DEEP | Fact.TURNED), 0])
    found = image_check.summary(files, np.array([3, 5, 7]), facts, np.array([0.1, 0.7, 0.2]))
    assert (found.counts, found.examples, found.largest) == (
        {"turned": 2, "deep": 1},
        {"turned": "3.png", "deep": "5.png"},
        0.7,
    )
    assert image_check.summary(files, np.array([], int), np.array([], int), np.array([])).largest == 0.0


@pytest.mark.parametrize(
    ("height", "width", "box"), [(5, 9, (0, 2, 5, 5)), (9, 4, (2, 0, 4, 4)), (6, 6, (0, 0, 6, 6))]
)
def test_the_largest_centred_square(height, width, box):
    assert image_pixels.centre(height, width) == box


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(("size", "box"), [(None, None), (3, None), (None, (1, 2, 4, 4)), (4, (0, 1, 4, 4))])
def test_deep_values_are_brought_to_their_form(channels, bands, size, box):
    values = np.random.default_rng(0).random((6, 9, bands)).astype(np.float32)
    found = image_pixels._resized_values(
        values, Form(size, channels, deep=True), box and (lambda height, width: box)
    )
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32) if bands == 3 else values[..., 0]
    planes = [grey] if channels == 1 else [values[..., k if bands == 3 else 0] for k in range(3)]
    assert len(found) == channels
    for plane, made in zip(planes, found, strict=True):
        if size is None and box is None:
            assert np.allclose(made, plane, atol=1e-6)
            continue
        top, left, tall, wide = box or (0, 1, 6, 6)
        part = plane[top : top + tall, left : left + wide]
        assert made.shape == ((6, 9) if size is None else (size, size)) and made.mean() == pytest.approx(
            part.mean(), abs=0.12
        )
        if size == tall:
            assert np.allclose(made, part, atol=1e-6)


# --- texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [1, 2, 3])
def test_the_vocabulary_by_falling_count(least):
    draw = random.Random(0)
    rows = [
        [draw.choice(["a", "b", "c", "d", "e\0", text_rows.PADDING, text_rows.UNKNOWN]) for _ in range(6)]
        for _ in range(4)
    ]
    counts = Counter(
        word for row in rows for word in row if word not in ("e\0", text_rows.PADDING, text_rows.UNKNOWN)
    )
    kept = sorted((word for word in counts if counts[word] >= least), key=lambda word: (-counts[word], word))
    assert text_rows._entries(rows, least) == [text_rows.PADDING, text_rows.UNKNOWN, *kept]


# --- boxes and the columns of a set -----------------------------------------------------------------------------


def test_pixels_inside_boxes_by_a_loop():
    from tutelage.data.augment_colour import inside

    boxes = torch.tensor([[0, 0, 2, 3], [1, 2, 3, 1], [4, 6, 1, 1], [2, 2, 0, 4]])
    found = inside(boxes, 5, 7)
    assert found.shape == (4, 1, 5, 7)
    for place, (top, left, tall, wide) in enumerate(boxes.tolist()):
        covered = [(y, x) for y in range(top, top + tall) for x in range(left, left + wide)]
        assert [(y, x) for _, y, x in found[place].nonzero().tolist()] == covered


@pytest.mark.parametrize(("words", "kind", "facts"), [
    ({"image": "i"}, "HubImages", {"image": "i", "target": "label"}), ({"image": "i", "target": "t"}, "HubImages", {"target": "t"}),
    ({"text": "x"}, "TextRows", {"text": "x", "fingerprint": "n None None"}),
    ({"target": "t", "revision": "r"}, "Table", {"fingerprint": "n None r"}),
    ({"target": "t", "fingerprint": "f"}, "Table", {"fingerprint": "f"}),
])  # fmt: skip
def test_a_set_of_the_library_as_images_texts_or_a_table(words, kind, facts):
    from tutelage.data.huggingface import load

    found = load(name="n", batch_size=2, **words)
    assert type(found).__name__ == kind and {name: getattr(found, name) for name in facts} == facts


@pytest.mark.parametrize(("words", "said"), [
    ({}, "give either `root`, a local folder or file, or `name`, a set on the hub"),
    ({"root": "a", "name": "b"}, "give either `root`, a local folder or file, or `name`, a set on the hub"),
    ({"name": "n", "text": "a", "image": "b"}, "give `text` or `image`, the column that a network sees, not both"),
])  # fmt: skip
def test_a_set_is_one_and_a_network_sees_one_column(words, said):
    from tutelage.data.huggingface import load

    assert refused(load, batch_size=2, **words) == said
