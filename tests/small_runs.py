"""The words of small runs, and of every method."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tutelage.generators import shards
from tutelage.generators.conditioning import Conditioning
from tutelage.generators.noise import NoiseDomain

SMALL = ["logger=none", "hardware.threads=1", "fit.max_steps=12", "fit.validate_every_steps=4", "fit.log_every_steps=2",
         "fit.checkpoint_every_s=0", "data.batch_size=32", "model=fcn", "model.depth=2", "model.width=16"]  # fmt: skip
GUIDE = ["model@guide=residual_convnet", "guide.width=4"]
TEACHER = ["model@teacher=residual_convnet", "teacher.width=4"]
SOURCE = ["model@source=residual_convnet", "source.width=4", "data.normalization=[[0.5],[0.5]]"]
GENERATE = [*SOURCE, "model.width=8", "model.depth=1", "method.quality_samples=16"]

_folder = tempfile.TemporaryDirectory(prefix="tutelage-pseudo-")  # removed at the end of the process


def _pseudo_data() -> str:
    """Make a small pseudo data set of the noise domain, and return its folder."""
    generator = NoiseDomain((1, 8, 8), 10)
    labels = Conditioning("uniform", classes=10, seed=0)
    shards.write(
        _folder.name, generator, labels, shards.recipe(generator, labels, count=64, seed=0), shard_size=32
    )
    return _folder.name


def sentences() -> str:
    """Write sentences with a label each, and return the file."""
    words = ["a", "b", "c", "d", "e", "f"]
    rows = [
        f"{' '.join(words[(i * k) % 6] for k in range(3 + i % 5))},{'yes' if i % 2 else 'no'}"
        for i in range(96)
    ]
    path = Path(_folder.name) / "texts.csv"
    path.write_text("\n".join(["text,label", *rows]))
    return str(path)


C = "method.objectives.consistency"
P_SSL = [f"{C}.pseudo={_pseudo_data()}", "data.normalization=[[0.5],[0.5]]", f"{C}.ratio=0.5", "method.ema_decay=0.9",
         f"{C}.weak.random_crop.padding=1", f"{C}.strong.random_crop.padding=1", "model.dropout=0.2"]  # fmt: skip

SEMI = [f"{C}.ratio=1.0", "data.per_class=5", f"{C}.weak.random_crop.padding=1", f"{C}.strong.random_crop.padding=1",
        "method.ema_decay=0.9", "model.dropout=0.2"]  # fmt: skip

WRITING = ["model=transformer_decoder", "model.depth=1", "model.width=8", "model.heads=2", "model@teacher=transformer_decoder",
           "teacher.depth=1", "teacher.width=8", "teacher.heads=2"]  # fmt: skip
COPIES = ["data=copy_paste", "data.min_length=3", "data.max_length=5",
          "data.train_size=96", "data.validation_size=40", "data.test_size=40"]  # fmt: skip
"""A language model, a teacher for it, and sequences to copy."""

METHODS: dict[str, list[str]] = {
    "supervised": ["model.dropout=0.2"],
    "distillation": [*TEACHER, "model.dropout=0.2"],
    "feature_distillation": [*TEACHER, "model.dropout=0.2"],
    "fitnets": [*TEACHER, "model.dropout=0.2", "method.hint_steps=6"],
    "gan": [*GENERATE, "model=generator/gan", "method.critic_width=8"],
    "inversion": [*GENERATE, "model=generator/inversion", "data=synthetic", "data.num_classes=10"],
    "diffusion": [*GENERATE, "model=generator/diffusion", "model.sampling_steps=2"],
    **{f"pseudo_ssl/{name}": P_SSL for name in ("uda", "fixmatch", "pseudo_label")},
    "pseudo_ssl/mean_teacher": [*P_SSL, f"{C}.schedule.steps=6"],
    "semi_supervised": SEMI,
    "self_supervised": ["method.objectives.views.projector=[16,8]", "model.dropout=0.2"],
    "masked_images": ["method.objectives.masked.patch=2", "model.dropout=0.2"],
    "masked_tokens": [
        "data=text_classification",
        f"data.root={sentences()}",
        "model=transformer_encoder",
        "model.dropout=0.2",
    ],
    "guidance": [*GUIDE, "model.dropout=0.2"],
    "guidance_released": [*GUIDE, "model.dropout=0.2"],
    "intrinsic_dimension": ["method.objectives.dimension.neighbours=5", "model.dropout=0.2"],
}
"""Every method with the least words that make it run; `test_contracts` fails for a method that is not here."""
