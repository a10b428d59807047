"""The words of every golden run. Where keys change, these lines change; the numbers they gave do not."""

from __future__ import annotations

COMMON = [
    "logger=none", "hardware.threads=1", "fit.max_steps=200", "fit.validate_every_steps=50", "fit.log_every_steps=50",
    "fit.checkpoint_every_s=1e9", "optimizer.lr=2e-3", "model=fcn", "model.depth=4", "model.width=16", "data.batch_size=32",
]  # fmt: skip
SEQUENCES = ["data.train_size=256", "data.validation_size=64", "data.test_size=64", "fit.max_steps=60", "fit.validate_every_steps=20"]  # fmt: skip
PARITY = ["data=parity", "data.max_length=12", *SEQUENCES, "~model.depth", "model=parity_transformer", "model.width=16"]  # fmt: skip
COPY = ["data=copy_paste", "data.min_length=3", "data.max_length=6", *SEQUENCES, "model=copy_paste_rnn", "model.depth=2",
        "model.width=16"]  # fmt: skip
