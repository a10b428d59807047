"""What other frameworks call a setting, and the word that it is here. No torch here."""

from __future__ import annotations

AUGMENTATIONS = {
    "random_crop": "a border, and the original size cut out of it (padding)",
    "horizontal_flip": "left and right change places (probability)",
    "random_resized_crop": "a part of the image, resized to the whole (scale, ratio; arXiv 1409.4842)",
    "rand_augment": "several operations of a list, drawn for each image (arXiv 1909.13719)",
    "cutout": "a grey square (arXiv 1708.04552)",
    "colour_jitter": "brightness, contrast, saturation, hue",
    "random_erasing": "a grey rectangle (arXiv 1708.04896)",
    "mixup": "the weighted mean of two images and of their targets (alpha; arXiv 1710.09412)",
    "cutmix": "a rectangle of another image, the targets by its share (alpha; arXiv 1905.04899)",
}
"""Augmentations by name, and what each does: +data.augment.<name>={<argument>: <value>}."""

_WORDS = {
    "fit.patience=<validations without a better metric>": ("early_stopping", "early_stop", "earlystopping"),
    "hardware.recompute=true": ("gradient_checkpointing", "activation_checkpointing", "grad_checkpointing"),
    "hardware=gpu hardware.devices=<number>": ("gpus", "num_gpus", "n_gpus"),
    "fit.epochs=<number> fit.max_steps=null": ("max_epochs", "num_epochs", "n_epochs", "num_train_epochs"),
    "fit.accumulate=<batches>": ("accumulate_grad_batches", "gradient_accumulation_steps", "grad_accum"),
    "fit.gradient_clip=<largest norm>": ("gradient_clip_val", "max_grad_norm", "clip_grad_norm"),
    "fit.validate_every_steps=<updates>": ("check_val_every_n_epoch", "val_check_interval", "eval_steps"),
    "+data.augment.<name>={}": ("augmentations", "transforms", "transform"),
    "given by the same command again: what is stored goes on where it stopped": (
        "ckpt_path",
        "resume",
        "resume_from_checkpoint",
    ),
}
_HERE = {name: word for word, names in _WORDS.items() for name in names}
_SPELLED = {"color_jitter": "colour_jitter", "randaugment": "rand_augment", "randaug": "rand_augment"}


def here(key: str) -> str:
    """Return the word for what a key names elsewhere, `early_stopping` or `trainer.max_epochs`; nothing where none is known."""
    last = key.rpartition(".")[2].lower()
    name = _SPELLED.get(last, last)
    if name in AUGMENTATIONS:
        of_pairs = name in ("mixup", "cutmix")
        return f"+data.augment.{name}.alpha=<value>" if of_pairs else f"+data.augment.{name}={{}}"
    return _HERE.get(last, "")
