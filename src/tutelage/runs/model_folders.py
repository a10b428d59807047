"""Where a Hugging Face model lies on this machine, and what it is: its folder, and a digest of its content (no torch)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tutelage.errors import UserError
from tutelage.runs.digests import file_digest

TOKENIZER = "tokenizer.json"
_COUNTED = ("config.json", "preprocessor_config.json", TOKENIZER)


def model_folder(name: str, revision: str | None = None) -> Path:
    """Return the folder of a model: the one that is named, or that of a name of the hub in the local cache. Nothing is downloaded.

    revision: a commit, branch or tag of the hub; None: main.
    Raises UserError where there is none, or it holds no config.json.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"`name`={name}: the folder holds no config.json, as save_pretrained writes it")
        return folder
    cached = None
    if name.count("/") <= 1 and not name.startswith((".", "~", "/")):
        cached = _cached(name, revision)
    if cached is None:
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"`name`={name}: there is no such folder, and the local cache of Hugging Face holds no model of this name. Give the folder of "
            f"one (save_pretrained), or fetch it first where there is a connection: hf download {name}{at}"
        )
    return cached


def _cached(name: str, revision: str | None) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise UserError(
            "model=huggingface needs the package transformers: pip install 'tutelage[huggingface]'"
        ) from error
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def model_digest(name: str, revision: str | None = None) -> str:
    """Return a sha256 of what a model is: its configuration, tokeniser and safetensors, wherever they lie. Raises UserError without one."""
    folder = model_folder(name, revision)
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in _COUNTED or path.suffix == ".safetensors":
            total.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return total.hexdigest()
