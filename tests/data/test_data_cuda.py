"""On a GPU: the same batches as on the CPU, and no step that makes the host wait for the device."""

import time
from collections.abc import Callable

import pandas as pd
import pytest
import torch

from tutelage.data.base import DataModule
from tutelage.data.images import Digits
from tutelage.data.sequences import Parity
from tutelage.data.series import Series

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def digits(augment: dict | None) -> Callable[..., DataModule]:
    return lambda _: Digits(batch_size=128, augment=augment)


def series(folder: object) -> DataModule:
    table = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=500, freq="h"), "a": range(500)})
    table.to_csv(f"{folder}/table.csv", index=False)
    return Series(
        root=f"{folder}/table.csv", batch_size=16, length=8, horizon=4, split=[300, 100, 100], missing=0.1
    )


def parity(_: object) -> DataModule:
    sizes = {"train_size": 4000, "validation_size": 10, "test_size": 10}
    return Parity(batch_size=128, min_length=2, max_length=20, **sizes)


MAKERS = {
    "plain": digits(None),
    "crop and flip": digits({"random_crop": {"padding": 1}, "horizontal_flip": {}}),
    "resized crop": digits({"random_resized_crop": {}}),
    "strong": digits({"rand_augment": {}, "cutout": {}}),
    "series": series,
    "parity": parity,
}


@pytest.mark.parametrize("name", MAKERS)
def test_steps_never_wait_for_the_device_and_equal_the_cpu(name: str, tmp_path: object) -> None:
    module = MAKERS[name](tmp_path)
    module.setup()
    there, here = (module.train_stream(seed=0, device=device) for device in ("cuda", "cpu"))
    for stream in (there, here):
        stream.seek(0, 8)
    list(there)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        start = time.perf_counter()
        batches = list(there)
        issued = time.perf_counter() - start
    finally:
        torch.cuda.set_sync_debug_mode("default")
    print(f"{name}: {issued / 8 * 1e6:.0f} us of the host per step")
    for on_gpu, on_cpu in zip(batches, here, strict=True):
        assert torch.equal(on_gpu.index.cpu(), on_cpu.index) and torch.equal(
            on_gpu.targets.cpu(), on_cpu.targets
        )
        wrong = (on_gpu.inputs.cpu() - on_cpu.inputs).abs() > 1e-4
        # Nearest pixels and truncated values may fall to the neighbour where float arithmetic differs.
        assert wrong.float().mean() < (0.02 if name in ("strong", "resized crop") else 1e-9)
