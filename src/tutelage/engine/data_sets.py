"""The data of a run: its own, and the unlabelled images or texts that its method learns from; built, fetched and split."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.base import DataModule
from tutelage.data.cache import cache_folder
from tutelage.data.image_set import ImageData
from tutelage.data.splits import digest
from tutelage.data.text import Text
from tutelage.data.text_rows import TextRows
from tutelage.engine.instantiate import construct, parameters_of, worded
from tutelage.engine.seen import judged
from tutelage.errors import UserError, choices
from tutelage.objectives.unlabelled import Unlabelled, UnlabelledTokens, byte_affine
from tutelage.runs.folders import lock_at, make_folder
from tutelage.runs.identity import is_need
from tutelage.runs.setting import overlap
from tutelage.runs.weights import needed_folder, node_of
from tutelage.tasks import NoTargets

log = logging.getLogger("tutelage")


def build_data(config: dict[str, Any], *, judged_as: DataModule | None = None) -> DataModule:
    """Build the data module, fetch or check its files (one process at a time), and make its splits.

    judged_as: the data of the network that is to be judged on these, see `DataModule.judged_as`.
    """
    node = (
        config["data"] | {"root": place("data.root", config)}
        if is_need(config["data"].get("root"))
        else config["data"]
    )
    data: DataModule = construct("data", node)
    if not isinstance(data, DataModule):
        raise UserError(
            f"data._target_ must be a tutelage.data.base.DataModule, with splits and a task, got {type(data).__name__}: derive it from "
            "that class, or from tutelage.data.image_set.ImageData where all of it fits into memory"
        )
    _set_up("data", data, config, judged_as)
    fit = config.get("fit") or {}
    if fit.get("metrics") or fit.get("monitor"):
        with worded("fit", ("metrics", "monitor")):
            data.task.ask(fit.get("metrics") or (), fit.get("monitor"))
    return data


def _set_up(
    where: str, data: DataModule, config: dict[str, Any], judged_as: DataModule | None = None
) -> None:
    runs_dir = Path(config["runs_dir"]).expanduser()
    # What is only looked at makes no runs folder.
    locks = (runs_dir if runs_dir.is_dir() else cache_folder()) / ".locks"
    make_folder(locks)
    with worded(where, parameters_of(type(data))[0]):
        # Ranks and parallel jobs would else download or decode the same files at once.
        with lock_at(locks / "data.lock"):
            data.prepare()
        if judged_as is not None:
            data.judged_as(judged_as)
        data.setup()


def build_unlabelled(config: dict[str, Any], data: DataModule) -> Unlabelled | UnlabelledTokens | None:
    """Return the images or texts that `method.unlabelled` names: of the data's own training set, or of another set of images.

    None where it is not set.
    """
    wanted = config["method"].get("unlabelled")
    if wanted is None:
        return None
    if isinstance(wanted, str) and wanted not in ("train", "rest", "all"):
        raise UserError(
            f"method.unlabelled={wanted} is not known; {choices(wanted, ('train', 'rest', 'all'))}; another set is "
            "+data@method.unlabelled=<data>, a folder of images +data@method.unlabelled=image_folder method.unlabelled.root=<folder>"
        )
    if isinstance(data, TextRows | Text) and isinstance(wanted, str):
        index, mask, special = data.unlabelled_tokens(wanted)
        facts: dict[str, Any] = {"of": wanted, "count": len(index), "sha256": digest(index)}
        return UnlabelledTokens(data.store, index, facts, data.vocab_size, mask, special)  # type: ignore[arg-type]
    if not isinstance(data, ImageData):
        raise UserError(
            f"method.unlabelled needs images with classes, or texts, got data {type(data).__name__}"
        )
    if isinstance(wanted, str):
        images, index, scale, shift = data.unlabelled(wanted)  # type: ignore[arg-type]
        facts = {"of": wanted}
    else:
        where = "method.unlabelled"
        if overlap(wanted, config["data"]):
            raise UserError(
                f"{where} is the set of data itself, whose validation and test images it must not hold: say {where}=train"
            )
        other = construct(where, wanted)
        if not isinstance(other, ImageData):
            raise UserError(f"{where} must be a set of images, got {type(other).__name__}")
        channels = data.input_shape[0]
        if other.form is not None and other.form.channels != channels:  # said before an hour of decoding
            raise UserError(
                f"the unlabelled images have {other.form.channels} channels, the labelled ones {channels}: say {where}.channels={channels}"
            )
        _set_up(where, other, config)
        images = other.unlabelled_pixels()
        index = other.splits["train"]
        if isinstance(other.task, NoTargets):  # none of them is there to judge by
            index = np.sort(np.concatenate(list(other.splits.values())))
        scale, shift = byte_affine(data.normalization, data.input_shape[0])
        facts = {"of": other.summary()}
        index, facts["left_out"] = _not_judged(where, other, index, data)
    facts |= {"count": len(index), "sha256": digest(index)}
    return Unlabelled(images, index, scale, shift, facts)


def _not_judged(where: str, other: ImageData, index: np.ndarray, data: ImageData) -> tuple[np.ndarray, int]:
    """Return an index of unlabelled images without those that a set is selected by and tested on, and how many these were."""
    images, leak = other.unlabelled_pixels(), judged(other, index, data)
    count = int(leak.sum())
    if count == len(index):
        raise UserError(
            f"all images of {where} are validation or test images of data: another folder, or {where}=train or rest, has none of them"
        )
    if count:
        log.warning(
            "%s: %d images that are validation or test images of data, too, are left out", where, count
        )
    if len(index) < len(images):
        log.info("%s: %d of its %d images, those of its training split", where, len(index), len(images))
    return index[~leak], count


def place(where: str, config: dict[str, Any]) -> str:
    """Return the folder that a setting such as `data.root` names: as given, or of the run behind `need:<name>`."""
    section, _, key = where.rpartition(".")
    value = str(node_of(config, section)[key])
    return str(needed_folder(config, where, value)) if is_need(value) else value
