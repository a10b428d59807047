"""What a configuration may name: ours, networks, and functions of the user's own folder; never what an installed package defines."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from torch import nn

from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.engine.instantiate import construct, parameters_of, resolve, worded
from tutelage.engine.trust import _of_library, check_words
from tutelage.errors import UserError


@pytest.mark.parametrize("place", ["lib/python3.11/site-packages", "lib/python3/dist-packages"])
def test_an_environment_inside_the_folder_of_the_command_is_not_the_users_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """`make setup` puts .venv into the checkout: `pandas.read_pickle` lies below the working folder, and opens any pickle."""
    packages = tmp_path / ".venv" / place
    packages.mkdir(parents=True)
    name = f"installed_{place.count('/')}"
    (packages / f"{name}.py").write_text("def read_pickle(path):\n    raise AssertionError('it ran')\n")
    (tmp_path / "mine.py").write_text(f"def network():\n    pass\n\nfrom {name} import read_pickle\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(packages), *sys.path])
    for module in ("mine", name):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert resolve("mine.network", "model").__name__ == "network"
    for target in (f"{name}.read_pickle", "mine.read_pickle"):
        with pytest.raises(UserError, match="refused"):
            resolve(target, "model")


@pytest.mark.parametrize(
    "target",
    ["torch.load", "torch.hub.load", "torch.utils.collect_env.run", "pandas.read_pickle", "shutil.rmtree"],
)
def test_functions_of_this_environment_are_refused_in_the_folder_that_holds_it(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(Path(sys.prefix).parent)
    with pytest.raises(UserError, match="refused"):
        resolve(target, "model")


def test_what_a_file_declares_is_held_against_its_class() -> None:
    """Plans know no class by name: a file that hid its class's nature would open source data to a source-free run."""
    node = compose(["data=pseudo", "data.root=x", "data.fingerprint=f"])["data"]
    with pytest.raises(UserError, match="must declare `_reads_: pseudo`, as the shipped one does, got None"):
        construct("data", {key: value for key, value in node.items() if key != "_reads_"})
    with pytest.raises(UserError, match=r"data._reads_=psuedo declares nothing; did you mean 'pseudo'"):
        construct("data", node | {"_reads_": "psuedo"})
    makers = {
        name: compose([f"method={name}"])["method"].get("_makes_")
        for name in ("gan", "diffusion", "supervised", "synthesis")
    }
    assert makers == {
        "gan": "generator",
        "diffusion": "generator",
        "supervised": None,
        "synthesis": "pseudo_data",
    }


@pytest.mark.parametrize(
    ("target", "module"),
    [
        ("tutelage.models.fcn.FCN", "tutelage.models.fcn"),
        ("tutelage.scaling.cases.TwoLayer", "tutelage.scaling.cases"),
        ("tutelage.scaling.layers.Dense", "tutelage.scaling.layers"),
        ("tutelage.scaling.phase_diagram.phase_diagram", None),
        ("tutelage.jobs.launch.run_plan", None),
        ("tutelage.errors.UserError", None),
        ("my_package.MyNetwork", "my_package"),
        ("__main__.Mine", None),
        ("mine.__main__.Mine", None),
        ("shutil.rmtree", None),
        ("Network", None),
        ("a-b.Network", None),
        (None, None),
    ],
)
def test_a_target_is_ours_to_be_named_or_a_users(target: object, module: str | None) -> None:
    if module is not None:
        assert check_words(target, "model._target_") == module
        return
    with pytest.raises(UserError, match=r"model\._target_"):
        check_words(target, "model._target_")


@pytest.mark.parametrize(
    ("module", "is_library"),
    [
        ("torch.nn", True),
        ("torch.nn.modules.linear", True),
        ("torchvision.models.resnet", True),
        ("timm", True),
        ("timm.models.resnet", True),
        ("timm.utils", False),
        ("torch", False),
        ("torch.hub", False),
        ("torch.nnx", False),
        ("torchvision.datasets", False),
        ("numpy", False),
    ],
)
def test_of_a_library_its_networks_alone_are_trusted(module: str, is_library: bool) -> None:
    assert _of_library(module) == is_library


@pytest.mark.parametrize("name", ["run_plan", "RunBusy"])
def test_what_an_allowed_module_of_ours_imports_from_one_that_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from tutelage.jobs import launch
    from tutelage.models import fcn
    from tutelage.runs.run import RunBusy

    monkeypatch.setattr(fcn, name, {"run_plan": launch.run_plan, "RunBusy": RunBusy}[name], raising=False)
    with pytest.raises(UserError, match="refused"):
        resolve(f"tutelage.models.fcn.{name}", "model")
    assert resolve("tutelage.scaling.layers.Dense", "model").__name__ == "Dense"


def test_notes_name_keys_as_errors_do(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tutelage")
    with worded("data", {"white"}):
        log.warning("say so by `white`, %d for 12 bits, not by `other`", 4095)
    log.warning("`white`")
    assert caplog.messages == ["say so by data.white, 4095 for 12 bits, not by `other`", "`white`"]


def test_an_optimiser_is_chosen_by_name_and_a_target_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "own_optimiser.py").write_text(
        "import functools, torch\ndef made(**k):\n    return functools.partial(torch.optim.Adam, **k)\n"
    )
    monkeypatch.chdir(tmp_path)
    for target in ("torch.optim.Adam", "own_optimiser.made"):
        words = [f"+optimizer._target_={target}", "data=synthetic", "logger=none", f"runs_dir={tmp_path}"]
        for partial in ([], ["+optimizer._partial_=true"]):
            with pytest.raises(UserError, match=r"by name, optimizer=any optimizer\.name=adam"):
                build(compose([*words, *partial]))


def test_what_a_constructor_calls_its_instance_is_no_argument() -> None:
    class Named(nn.Module):
        def __init__(this, width: int = 3) -> None:
            super().__init__()
            this.width = width

    assert list(parameters_of(Named)[0]) == ["width"]
