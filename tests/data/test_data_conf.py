"""Every data configuration composes and fits the constructor that it names; those that need no files are set up."""

from pathlib import Path

import pytest

from tutelage.config.compose import compose
from tutelage.config.groups import abouts, group_options
from tutelage.data.base import DataModule
from tutelage.engine.instantiate import construct

FOLDER = Path(__file__).parents[2] / "conf" / "data"
NAMES = [name for name in group_options("data") if "/" not in name]
SMALL = {
    "own": [
        "data.source._target_=tutelage.data.own.Arrays",
        f"+data.source.inputs={[[0.5 * i] for i in range(12)]}".replace(" ", ""),
        f"+data.source.targets={[i % 2 for i in range(12)]}".replace(" ", ""),
        "data.batch_size=4",
    ],
    "digits": [],
    "synthetic": [],
    "copy_paste": ["data.train_size=300", "data.validation_size=10", "data.test_size=10"],
    "parity": ["data.train_size=300", "data.validation_size=10", "data.test_size=10"],
}


@pytest.mark.parametrize("name", NAMES)
def test_configuration_builds(name: str, tmp_path: Path) -> None:
    root = "need:shards" if name == "pseudo" else tmp_path
    config = compose([f"data={name}", *SMALL.get(name, [f"data.root={root}"])])
    module = construct("data", config["data"])
    assert isinstance(module, DataModule)
    assert len(abouts("data")[name]) > 18  # `list` shows it
    if name in SMALL:
        module.prepare()
        module.setup()
        assert len(list(module.train_stream(seed=0, device="cpu"))) == module.steps_per_epoch
