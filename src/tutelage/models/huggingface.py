"""Models of Hugging Face's transformers, from a folder or the local cache, fitted to the data: images, texts, tokens; LoRA."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.arguments import positive
from tutelage.errors import UserError, choices, extra, reason_of
from tutelage.models.forward_calls import Call, undisturbed
from tutelage.models.head_order import answer_in_order
from tutelage.models.lora import with_lora
from tutelage.runs.bounded import parse_json
from tutelage.runs.model_folders import TOKENIZER, model_folder

log = logging.getLogger("tutelage")

# transformers costs seconds to import, so it is imported where it is used.


def hugging_face_model(
    name: str,
    input_shape: Sequence[int],
    output_size: int,
    vocab_size: int | None = None,
    per_position: bool = False,
    next_token: bool = False,
    padding_token: int | None = None,
    vocabulary_sha256: str | None = None,
    revision: str | None = None,
    content_digest: str | None = None,
    options: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    own_size: bool = False,
    class_names: Sequence[str] | None = None,
) -> nn.Module:
    """Build a model of transformers with the names of its layers as they are: a classifier of images or texts, or a language model.

    name: a folder that save_pretrained wrote, or the name of a model in the local cache. Nothing is downloaded, no code of the model's
    own is run, and weights are read from safetensors alone.
    input_shape: (channels, height, width) of images, or (length,) of tokens; at most as long as the model has positions.
    output_size: classes, labels or values, (n, output_size); with per_position the vocabulary, (n, length, output_size).
    vocab_size, vocabulary_sha256, padding_token: of the data's tokens: their number, the sha256 of the tokeniser.json or words that gave
    them, and the number of padding.
    next_token: a causal language model; otherwise, with per_position, a masked one.
    revision: of a name in the cache. content_digest: of its content, for the record alone.
    options: settings of the model's own configuration, such as num_hidden_layers.
    lora: rank, alpha (twice the rank unless told), dropout and layers (name endings; None: the projections to queries and values) of
    low-rank updates (arXiv 2106.09685): they and the final layer alone are trained.
    pretrained: the folder's weights; its vocabulary must be the data's, and images of another size than its own are resized, bilinearly.
    own_size: images are resized likewise without the folder's weights: what had them once is built again for its own.
    class_names: of the data. A pretrained head whose configuration calls its outputs so answers in their order; other names are said.
    The head is fresh where the folder has none, or one of other classes. Otherwise the initialisation is the model's own, for the data's
    channels, size and vocabulary. `pretrained_normalization` is the mean and std of its images, where the folder says so.
    Raises UserError; cost: one forward of two samples.
    """
    folder = model_folder(name, revision)
    label = f"Hugging Face's {name}"
    positive(label, output_size=output_size)
    kind = _kind(label, input_shape, vocab_size, per_position, next_token)
    config = _configuration(folder, label, options)
    if kind == "image":
        size = _fit_images(label, config, input_shape, pretrained or own_size)
    else:
        _fit_tokens(config, folder, label, vocab_size, padding_token, vocabulary_sha256, pretrained)
        size = None
    if not per_position:
        config.num_labels = output_size
    network = _pretrained(folder, label, config, kind) if pretrained else _from_scratch(label, config, kind)
    if size is not None:
        network.register_forward_pre_hook(partial(_resize, size=size))
    if pretrained and not per_position and class_names and not hasattr(network, "drawn_afresh"):
        answer_in_order(label, network, class_names, _example(input_shape, vocab_size))
    _note_normalization(network, folder, input_shape)
    _check_fit(label, network, input_shape, output_size, vocab_size, per_position)
    return network if lora is None else with_lora(network, label, lora, _example(input_shape, vocab_size))


_CLASSES = {
    "image": "AutoModelForImageClassification",
    "text": "AutoModelForSequenceClassification",
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
}


_KINDS = {
    "image": "classifier of images",
    "text": "classifier of texts",
    "causal": "causal language model",
    "masked": "masked language model",
}


def _transformers() -> Any:
    with extra("huggingface", "model=huggingface needs the package transformers"):
        import transformers
    return transformers


def _kind(
    label: str, input_shape: Sequence[int], vocab_size: int | None, per_position: bool, next_token: bool
) -> str:
    if vocab_size is not None and len(input_shape) == 1:
        return "text" if not per_position else "causal" if next_token else "masked"
    if vocab_size is None and len(input_shape) == 3:
        return "image"
    raise UserError(
        f"{label} takes images (channels, height, width) or tokens (length,), got inputs of shape {tuple(input_shape)}"
        f"{'' if vocab_size is None else ' of tokens'}"
    )


def _configuration(folder: Path, label: str, options: Mapping[str, Any] | None) -> Any:
    transformers = _transformers()
    said = parse_json((folder / "config.json").read_bytes())
    if isinstance(said, Mapping) and "auto_map" in said:
        log.info("%s brings code of its own, which is not run", label)
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises whatever its parsers do
        raise UserError(
            f"{label}: its config.json is of no model that transformers knows ({reason_of(error)})"
        ) from error
    known = config.to_dict()
    for key, value in (options or {}).items():
        if key not in known and not hasattr(config, key):
            raise UserError(f"{label}: its configuration has no `options`.{key}; {choices(key, known)}")
        setattr(config, key, value)
    if hasattr(config, "use_cache"):
        config.use_cache = False  # kept keys and values are of no use in training
    return config


def _fit_images(
    label: str, config: Any, input_shape: Sequence[int], pretrained: bool
) -> tuple[int, int] | None:
    """Fit a configuration to images, or return the (height, width) to which they are resized."""
    channels, height, width = input_shape
    own = getattr(config, "image_size", None)
    if not pretrained:
        config.num_channels = channels
        if own is not None:
            config.image_size = height if height == width else (height, width)
        return None
    known = getattr(config, "num_channels", channels)
    if known != channels:
        raise UserError(
            f"{label} knows images of {known} channels, the data have {channels}: read them so "
            f"(data=image_folder data.channels={known}), or use weights: scratch"
        )
    if own is None:
        return None
    size = (own, own) if isinstance(own, int) else (int(own[0]), int(own[1]))
    return None if size == (height, width) else size


def _fit_tokens(
    config: Any,
    folder: Path,
    label: str,
    vocab_size: int | None,
    padding: int | None,
    vocabulary: str | None,
    pretrained: bool,
) -> None:
    file = folder / TOKENIZER
    if not pretrained:
        config.vocab_size = vocab_size
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):  # of its own vocabulary
            value = getattr(config, key, None)
            if isinstance(value, int) and value >= (vocab_size or 0):
                setattr(config, key, None)
    elif file.is_file():
        if hashlib.sha256(file.read_bytes()).hexdigest() != vocabulary:
            raise UserError(
                f"{label} was trained with another vocabulary than that of these data: each token would mean another word to it. Give "
                f"the data its tokeniser, data.tokenizer={folder}, or use weights: scratch"
            )
    elif vocab_size != config.vocab_size:
        raise UserError(
            f"{label} was trained with another vocabulary than that of these data, of {config.vocab_size} tokens in place of {vocab_size}; "
            f"its folder holds no {TOKENIZER} that the data could use. Save its tokeniser there, or use weights: scratch"
        )
    else:
        log.warning(
            f"{label}: its folder holds no {TOKENIZER}, so whether its tokens mean the data's words is not known"
        )
    if padding is not None:
        config.pad_token_id = padding


def _maker(label: str, config: Any, kind: str) -> Any:
    """Return what of transformers builds such a model. Raises UserError where it has none of this kind."""
    maker = getattr(_transformers(), _CLASSES[kind])
    if type(config) not in maker._model_mapping:
        raise UserError(
            f"{label} is of the kind '{config.model_type}', of which transformers has no {_KINDS[kind]}, as these data ask"
        )
    return maker


def _from_scratch(label: str, config: Any, kind: str) -> nn.Module:
    maker = _maker(label, config, kind)
    try:
        network: nn.Module = maker.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"{label} cannot be built for these data: {reason_of(error)}") from error
    return network.train()


def _pretrained(folder: Path, label: str, config: Any, kind: str) -> nn.Module:
    if not any(folder.glob("*.safetensors")):
        others = [path.name for path in folder.glob("*.bin")]
        raise UserError(
            f"{label} holds no weights as safetensors"
            + (f" ({others[0]} is a pickle, which could execute code: convert it)" if others else "")
            + "; use weights: scratch, or save it with save_pretrained"
        )
    maker = _maker(label, config, kind)
    try:
        with _quiet():
            network, found = maker.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except Exception as error:
        raise UserError(f"the weights of {label} cannot be read: {reason_of(error)}") from error
    body = f"{network.base_model_prefix}."
    of_pooler = [key for key in found["missing_keys"] if "pooler" in key]
    differing = [key[0] for key in found["mismatched_keys"]]
    wrong = [
        key for key in (*found["missing_keys"], *differing) if key.startswith(body) and key not in of_pooler
    ]
    if wrong:
        raise UserError(
            f"the weights of {label} are not of the model that its config.json and `options` describe: {wrong[0]} is missing or of "
            f"another shape ({len(wrong)} such in all)"
        )
    if fresh := [*found["missing_keys"], *differing]:
        log.info("%s: not among its weights, so drawn afresh: %s", label, ", ".join(sorted(fresh)))
        network.drawn_afresh = tuple(sorted(fresh))
    network.train()
    return network


def _resize(
    _network: nn.Module, inputs: tuple[Tensor, ...], size: tuple[int, int]
) -> tuple[Tensor, ...] | None:
    images, *rest = inputs
    if tuple(images.shape[2:]) == size:
        return None
    resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return resized.to(images.dtype), *rest


def _note_normalization(network: nn.Module, folder: Path, input_shape: Sequence[int]) -> None:
    file = folder / "preprocessor_config.json"
    said = parse_json(file.read_bytes()) if file.is_file() else {}
    if len(input_shape) != 3 or not isinstance(said, Mapping) or said.get("do_normalize") is False:
        return
    mean, deviation = said.get("image_mean"), said.get("image_std")
    if isinstance(mean, list) and isinstance(deviation, list) and len(mean) == input_shape[0]:
        network.pretrained_normalization = tuple(mean), tuple(deviation)  # type: ignore[assignment]


def _example(input_shape: Sequence[int], vocab_size: int | None) -> Tensor:
    return torch.zeros(2, *input_shape, dtype=torch.float32 if vocab_size is None else torch.long)


def _check_fit(
    label: str,
    network: nn.Module,
    input_shape: Sequence[int],
    output_size: int,
    vocab_size: int | None,
    per_position: bool,
) -> None:
    inputs = _example(input_shape, vocab_size)
    expected = (2, *input_shape, output_size) if per_position else (2, output_size)
    try:
        with _quiet(), undisturbed(network):
            output = Call.of(network)(network, inputs)
    except UserError:
        raise
    except Exception as error:
        longest = getattr(network.config, "max_position_embeddings", None) if vocab_size else None
        too_long = longest is not None and input_shape[0] > longest - 2  # RoBERTa counts from 2
        advice = f"; it has {longest} positions, see data.length" if too_long else ""
        raise UserError(
            f"{label} does not run on inputs of shape {tuple(input_shape)}: {reason_of(error)}{advice}"
        ) from error
    if tuple(output.shape) != expected:
        raise UserError(f"{label} should answer with the shape {expected} here, got {tuple(output.shape)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without bars, and without the warnings and tables of what it drew afresh: that is said here in a line."""
    words = _transformers().utils.logging
    drawn, verbosity = words.is_progress_bar_enabled(), words.get_verbosity()
    words.disable_progress_bar()
    words.set_verbosity_error()
    try:
        yield
    finally:
        words.set_verbosity(verbosity)
        if drawn:
            words.enable_progress_bar()
