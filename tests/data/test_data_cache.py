"""What stays in memory between jobs, and what is written once for all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.data import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    cache.forget()


def test_the_value_unused_for_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT_BYTES", 3000)
    made: list[str] = []

    def get(key: str) -> Any:
        return cache.remember(key, lambda: (made.append(key), {"x": [torch.zeros(250)]})[1])

    for key in ("a", "b", "a", "a", "c", "d", "a", "b"):  # 1000 bytes each: three fit
        get(key)
    assert made == ["a", "b", "c", "d", "b"]
    monkeypatch.setattr(cache, "KEPT_BYTES", 999)
    get("e")
    get("e")
    get("b")  # one is kept, however large
    assert made == ["a", "b", "c", "d", "b", "e", "b"] and list(cache._kept) == ["b"]


def test_the_size_of_what_is_kept() -> None:
    @dataclasses.dataclass
    class Held:
        rows: Any
        name: str = "x"

    arrays = [np.zeros(3), torch.zeros(5), {"a": np.zeros(2, dtype=np.int8), "b": "text"}]
    assert cache._array_bytes(Held(tuple(arrays))) == 24 + 20 + 2 and cache._array_bytes("text") == 0


def test_an_entry_is_written_once_and_whole() -> None:
    def broken(folder: Path) -> dict[str, Any]:
        np.save(folder / "x.npy", np.ones(3))
        raise RuntimeError("killed half-way")

    def write(folder: Path) -> dict[str, Any]:
        np.save(folder / "x.npy", np.arange(3))
        return {"count": 3}

    with pytest.raises(RuntimeError):
        cache.stored("entry", broken)
    arrays, facts = cache.stored("entry", write)
    assert arrays["x"].tolist() == [0, 1, 2] and facts == {"count": 3}
    arrays["x"][0] = 9  # a private page, never the file
    again, _ = cache.stored("entry", lambda _: pytest.fail("written again"))
    assert again["x"].tolist() == [0, 1, 2]
    assert json.loads((cache.cache_folder() / "decoded/entry/facts.json").read_text()) == facts
    left = [path.name for path in (cache.cache_folder() / "decoded").iterdir()]
    assert sorted(left) in (["entry"], ["entry", "entry.lock"])
