"""What does not fit into memory is said before it is tried."""

import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data import cache, memory
from tutelage.data.image_folder import ImageFolder
from tutelage.errors import UserError


def test_the_least_of_machine_container_and_shell_is_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    room = memory.room_bytes()
    assert room is None or 0 <= room < 2**50
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (taken + 2**20, taken + 2**20))
    found = memory.room_bytes()
    assert found is not None and found <= 2**21


def test_images_that_do_not_fit_are_said_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = np.full((8, 8, 3), 10 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    cache.forget()
    monkeypatch.setattr(memory, "room_bytes", lambda: 3000)
    options = {"root": tmp_path, "batch_size": 4, "validation": 0.2, "test": 0.2, "image_size": 8}
    with pytest.raises(
        UserError, match=r"the 20 images of .*, decoded, need 0.0 GB of memory.*`storage`=stream"
    ):
        ImageFolder(**options).prepare()  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "room_bytes", lambda: 5000)
    ImageFolder(**options).prepare()  # type: ignore[arg-type]


def test_what_fills_the_room_exactly_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "room_bytes", lambda: 100)
    memory.check_fits(100, "the numbers", "take fewer")
    with pytest.raises(UserError, match=r"the numbers need .*: take fewer"):
        memory.check_fits(101, "the numbers", "take fewer")
    monkeypatch.setattr(memory, "room_bytes", lambda: None)
    memory.check_fits(2**60, "the numbers", "take fewer")
