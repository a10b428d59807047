"""Synthetic runs: folders as the engine leaves them, in milliseconds."""

import pytest

from tutelage.runs.json_lines import MetricsWriter
from tutelage.runs.records import write_json
from tutelage.runs.store import Store

CODE = {"commit": "a" * 40, "digest": "d" * 16}
MACHINE = {"cpu": "A processor", "cores_usable": 2, "gpus": []}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def make(store):
    """Make a run (`maker`)."""
    return maker(store)


@pytest.fixture(scope="session")
def make_at():
    """From a folder to a store there, and what makes its runs: for tests that want several."""

    def make_at(folder):
        store = Store(folder / "runs")
        return store, maker(store)

    return make_at


def maker(store):
    """Return what makes runs in a store.

    `test` and `validation` are a run's metrics, None leaves it interrupted. tested_on: what its setup says of the data.
    words: of its command; None: as old records, which have none.
    """
    clock = iter(range(10_000))

    def make(
        name,
        seed,
        test=None,
        validation=None,
        *,
        metric="accuracy",
        mode="max",
        code=None,
        failed=None,
        steps=(100, 200),
        tested_on=None,
        words=None,
        **more,
    ):
        config = {
            "name": name,
            "seed": seed,
            "runs_dir": str(store.root),
            "method": {"_target_": "tutelage.methods.supervised.Supervised", "arm": name},
            "data": {"_target_": "tutelage.data.digits.Digits", "_reads_": "published", "split_seed": 0},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3},
            "needs": {},
        }
        for key, value in more.items():
            place = config
            *way, last = key.split("__")
            for part in way:
                place = place.setdefault(part, {})
            place[last] = value
        run = store.for_config(config)
        second = next(clock)
        started = f"2026-01-{1 + second // 3600:02d}T00:{second // 60 % 60:02d}:{second % 60:02d}+00:00"
        with run.lock():
            given = {} if words is None else {"words": words.split()}
            run.begin(config, {"started": started, "code": code or CODE, "machine": MACHINE, **given})
            validation = test if validation is None else validation
            with MetricsWriter(run.path / "metrics.jsonl") as writer:
                for step in steps:
                    writer.write(
                        {"step": step, f"validation/{metric}": (validation or 0.5) * step / steps[-1]}
                    )
            if tested_on is not None:
                write_json(run.path / "setup.json", {"data": tested_on})
            if failed:
                run.fail("NonFiniteLoss", failed)
            elif test is not None:
                best = {
                    "step": steps[-1],
                    "validation": {metric: validation},
                    "test": {metric: test, "loss": 1.0},
                }
                selection = {"monitor": metric, "mode": mode, "split": "validation"}
                run.complete({"best": best, "last": best, "selection": selection, "cost": {"train_s": 30.0}})
        return run

    return make
