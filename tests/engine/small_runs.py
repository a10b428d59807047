"""The words of small runs, and of every method."""

from __future__ import annotations

SMALL = ["logger=none", "hardware.threads=1", "fit.max_steps=12", "fit.validate_every_steps=4", "fit.log_every_steps=2",
         "fit.checkpoint_every_s=0", "data.batch_size=32", "model=fcn", "model.depth=2", "model.width=16"]  # fmt: skip
GUIDE = ["model@guide=residual_convnet", "guide.width=4"]
TEACHER = ["model@teacher=residual_convnet", "teacher.width=4"]
SOURCE = ["model@source=residual_convnet", "source.width=4", "data.normalization=[[0.5],[0.5]]"]
GENERATE = [*SOURCE, "model.width=8", "model.depth=1", "method.quality_samples=16"]

METHODS: dict[str, list[str]] = {
    "supervised": ["model.dropout=0.2"],
    "distillation": [*TEACHER, "model.dropout=0.2"],
    "feature_distillation": [*TEACHER, "model.dropout=0.2"],
    "fitnets": [*TEACHER, "model.dropout=0.2", "method.hint_steps=6"],
    "gan": [*GENERATE, "model=generator/gan", "method.critic_width=8"],
    "diffusion": [*GENERATE, "model=generator/diffusion", "model.sampling_steps=2"],
    "guidance": [*GUIDE, "model.dropout=0.2"],
}
"""Every method with the least words that make it run; `test_contracts` fails for a method that is not here."""
