"""Weights of pre-trained generators: a local folder, or a public name that is downloaded; nothing in a file is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.runs.bounded import check_archive, load_json

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_config(folder: Path) -> dict[str, Any]:
    """Return `config.json` of a folder. Raises UserError where it is missing or no JSON object."""
    path = folder / "config.json"
    try:
        config = load_json(path)
    except OSError as error:
        raise UserError(
            f"expected a generator's config.json and weights in {folder}, found no {path.name}"
        ) from error
    if not isinstance(config, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(config).__name__}")
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder's model.safetensors or pytorch_model.bin. Raises UserError where there is neither."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"expected {' or '.join(WEIGHTS)} in {folder}, found neither")
    try:
        check_archive(path)
        state = (
            # in memory of their own: at the places of a file some products round otherwise
            {name: tensor.clone() for name, tensor in load_file(path).items()}
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except UserError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"the weights file {path} is damaged: {str(error).splitlines()[0]}") from error
    except Exception as error:  # what the unpickler refuses or cannot read shares no base class
        raise UserError(
            f"the weights file {path} is damaged or holds more than tensors ({type(error).__name__})"
        ) from error
    return dict(state)


def load_strictly(network: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Give the network the tensors of a state whose names and shapes are the network's; UserError lists what differs."""
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    problems = [
        f"{kind}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", sorted(shapes)),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"the weights in {where} are not of this {type(network).__name__}; {'; '.join(problems)}"
        )
    network.load_state_dict(state, assign=True)


def download(urls: dict[str, str], folder: Path) -> Path:
    """Fetch files (name: address) that the folder lacks, and return the folder. Raises UserError saying what to put where."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, url in urls.items():
        if (folder / name).is_file():
            continue
        try:
            torch.hub.download_url_to_file(url, str(folder / name), progress=False)
        except Exception as error:  # urllib, ssl and http errors share no base class
            raise UserError(
                f"{url} cannot be downloaded ({error}). Copy the files {', '.join(urls)} into {folder}, or name a folder that has them"
            ) from error
    return folder
