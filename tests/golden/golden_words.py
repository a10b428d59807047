"""The words of every golden run. Where keys change, these lines change; the numbers they gave do not."""

from __future__ import annotations

TASK = "method.objectives.task"
A = "method.objectives.alignment"
S = "method.objectives.soft"
F = "method.objectives.feature"
C = "method.objectives.consistency"
D = "method.objectives.dimension"
COMMON = [
    "logger=none", "hardware.threads=1", "fit.max_steps=200", "fit.validate_every_steps=50", "fit.log_every_steps=50",
    "fit.checkpoint_every_s=1e9", "fit.keep_checkpoints=true", "optimizer.lr=2e-3", "model.width=16", "data.batch_size=32",
]  # fmt: skip


def full(words: list[str]) -> list[str]:
    """Return a run's words with what all share; a fully connected network of 4 layers where they name no model."""
    named = any(word.startswith("model=") for word in words)
    return [*COMMON, *([] if named else ["model.depth=4"]), *words]


SHORT = ["fit.max_steps=60", "fit.validate_every_steps=20", "fit.log_every_steps=20"]
SEQUENCES = ["data.train_size=256", "data.validation_size=64", "data.test_size=64"]
PARITY = ["data=parity", "data.max_length=12", *SEQUENCES, "model=parity_transformer", "model.depth=1"]
COPY = [
    "data=copy_paste",
    "data.min_length=3",
    "data.max_length=6",
    *SEQUENCES,
    "model=relu_rnn",
    "model.depth=2",
]
COPY_TEACHER = [
    "model@teacher=transformer_decoder",
    "teacher.heads=12",
    "teacher.per_position=true",
    "teacher.width=12",
    "teacher.depth=1",
]
GUIDE = ["method=guidance", "model.dropout=0.1", "model@guide=residual_convnet", "guide.width=4"]
TOKEN_GUIDE = [
    "method=guidance",
    *COPY,
    "model@guide=transformer_decoder",
    "guide.heads=12",
    "guide.per_position=true",
    "guide.width=12",
    "guide.depth=2",
    f"{A}.compare=tokens",
]
CONVNET = ["model@teacher=residual_convnet", "teacher.width=4"]
TEACHER = ["model.dropout=0.1", *CONVNET]
SOFT = ["method=distillation", *TEACHER]
FEATURES = ["method=feature_distillation", *TEACHER]
SERIES = ["data=series", "data.length=12", "data.horizon=4", "data.root={series}"]
CENTRED = "data.normalization=[[0.5],[0.5]]"
GENERATE = ["model@source=residual_convnet", "source.width=4", CENTRED, "model.width=8", "model.depth=1", "method.quality_samples=16",
            "fit.max_steps=20", "fit.validate_every_steps=20", "fit.log_every_steps=10"]  # fmt: skip
PSEUDO = [f"{C}.pseudo={{pseudo}}", CENTRED, f"{C}.ratio=0.5", f"{C}.weak.random_crop.padding=1",
          f"{C}.strong.random_crop.padding=1", "model.dropout=0.1", "optimizer.lr=5e-3"]  # fmt: skip

WORDS: dict[str, list[str]] = {
    "supervised": ["model.dropout=0.1"],
    "supervised: a schedule, clipping, two batches an update":
        ["optimizer=sgd", "optimizer.lr=0.05", "optimizer.schedule=cosine", "optimizer.warmup_steps=5", "fit.gradient_clip=1.0",
         "fit.accumulate=2", *SHORT],
    "supervised: parity": [*PARITY, *SHORT],
    "supervised: copy-paste": [*COPY, *SHORT],
    "supervised: a series": [*SERIES, *SHORT],
    "guidance": GUIDE,
    "guidance: unbiased_cka": [*GUIDE, f"{A}.similarity.unbiased=true"],
    "guidance: rsa": [*GUIDE, f"similarity@{A}.similarity=rsa", f"{A}.weight=0.5"],
    "guidance: ridge": [*GUIDE, f"similarity@{A}.similarity=ridge", f"{A}.similarity.penalty=100", f"{A}.similarity.projection_size=64"],
    "guidance: tokens": [*TOKEN_GUIDE, f"{A}.tokens_per_step=100"],
    "guidance: all tokens, unbiased_cka": [*TOKEN_GUIDE, f"{A}.tokens_per_step=null", f"{A}.similarity.unbiased=true", *SHORT],
    "guidance: sequences as samples":
        [*PARITY, "method=guidance", "model@guide=relu_rnn", "guide.per_position=false", "guide.depth=1", "guide.width=8", *SHORT],
    "guidance: until": [*GUIDE, f"{A}.schedule.name=until", f"{A}.schedule.steps=101"],
    "guidance: alignment_first": [*GUIDE, f"{A}.schedule.name=alone_first", f"{A}.schedule.steps=75"],
    "guidance: linear": [*GUIDE, f"{A}.schedule.name=linear", *SHORT],
    "guidance: cosine": [*GUIDE, f"{A}.schedule.name=cosine", f"{A}.schedule.steps=40", *SHORT],
    "guidance: uncertainty": [*GUIDE, "method.balance=uncertainty"],
    "guidance: gradient_norm": [*GUIDE, "method.balance=gradient_norm"],
    "guidance: gaussian": [*GUIDE, f"{A}.input=gaussian", *SHORT],
    "guidance: released_noise": [*GUIDE, f"{A}.input=released_noise", *SHORT],
    "guidance: noise to both":
        [*GUIDE, f"{A}.input=gaussian", f"{A}.noise_to=both", f"{A}.schedule.name=alone_first",
         f"{A}.schedule.steps=75"],
    "guidance: remembered": [*GUIDE, "method.cache=[guide]"],
    "guidance: first 3": [*GUIDE, f"{A}.pairing.strategy=first", f"{A}.pairing.k=3", *SHORT],
    "guidance: last 3, spread": [*GUIDE, f"{A}.pairing.strategy=last", f"{A}.pairing.k=3", f"{A}.pairing.positions=spread", *SHORT],
    "guidance: convolutions": [*GUIDE, f"{A}.pairing.strategy=type", f"{A}.pairing.layer_type=conv", *SHORT],
    "guidance: one_to_many": [*GUIDE, f"{A}.pairing.strategy=one_to_many", *SHORT],
    "guidance: explicit":
        [*GUIDE, f"{A}.pairing.strategy=explicit", f"{A}.pairing.pairs=[[blocks.0.conv1,layers.0.linear],[head,head]]", *SHORT],
    "guidance: the last of several, without outputs":
        [*GUIDE, f"{A}.pairing.many_to_one=last", f"{A}.pairing.exclude_output=true", *SHORT],
    "guidance: batch statistics": [*GUIDE, "+guide.norm_mode=batch", *SHORT],
    "guidance: a rule": ["method=guidance", "model@guide=rule/oriented_gradients", "guide.cell=2", *SHORT],
    "guidance: a rule of targets": ["method=guidance", "model@guide=rule/digits_topology", *SHORT],
    "distillation: soft": SOFT,
    "distillation: logits": [*SOFT, f"objective@{S}=logits", f"{TASK}.weight=0.7", f"{S}.weight=0.02"],
    "distillation: decoupled": [*SOFT, f"objective@{S}=decoupled", f"{S}.temperature=4"],
    "distillation: another label space":
        [*SOFT, f"{S}.label_space=other", "teacher.weights={teacher}", "teacher.depth=2", "model@teacher=fcn", "teacher.width=16",
         "data.classes=[0,1,2]"],
    "distillation: logits of another label space":
        [*SOFT, f"{S}.label_space=other", "teacher.weights={teacher}", "teacher.depth=2", "model@teacher=fcn", "teacher.width=16",
         "data.classes=[0,1,2]", f"objective@{S}=logits", *SHORT],
    "distillation: remembered": [*SOFT, "method.cache=[teacher]"],
    "distillation: batch statistics": [*SOFT, "+teacher.norm_mode=batch", *SHORT],
    "distillation: copy-paste":
        [*COPY, "method=distillation", *COPY_TEACHER, *SHORT],
    "distillation: a series": [*SERIES, "method=distillation", "model@teacher=fcn", "teacher.depth=1", "teacher.width=8", *SHORT],
    "features: hint": FEATURES,
    "features: attention":
        ["method=feature_distillation", *CONVNET, f"objective@{F}=attention", "model=convnet", "model.blocks=1", "model.width=4",
         f"{F}.weight=10",
         f"{F}.power=3", *SHORT],
    "features: relational": [*FEATURES, f"objective@{F}=relational", f"{F}.weight=25", *SHORT],
    "features: similarity": [*FEATURES, f"objective@{F}=similarity_preserving", f"{F}.weight=3000", *SHORT],
    "features: pkt": [*FEATURES, f"objective@{F}=pkt", f"{F}.weight=900", f"{F}.pairing.k=3", *SHORT],
    "features: cross_correlation":
        [*FEATURES, f"objective@{F}=cross_correlation", f"{F}.weight=1", f"{F}.pairing.strategy=even", f"{F}.pairing.k=null", *SHORT],
    "features: hints of positions":
        [*COPY, "method=feature_distillation", *COPY_TEACHER,
         f"{F}.weight=1", *SHORT],
    "fitnets": ["method=fitnets", *TEACHER, "method.hint_steps=100"],
    "p-ssl: uda": ["method=pseudo_ssl/uda", *PSEUDO, f"{C}.threshold=0.2"],
    "p-ssl: fixmatch":
        ["method=pseudo_ssl/fixmatch", *PSEUDO, f"{C}.threshold=0.2", "method.ema_decay=0.9", f"{C}.batch_norm=labelled", *SHORT],
    "p-ssl: pseudo_label": ["method=pseudo_ssl/pseudo_label", *PSEUDO, f"{C}.threshold=0.2", f"{C}.schedule.steps=100"],
    "p-ssl: mean_teacher": ["method=pseudo_ssl/mean_teacher", *PSEUDO, "method.ema_decay=0.9", f"{C}.schedule.steps=100"],
    "p-ssl: without weight":
        ["method=pseudo_ssl/uda", *PSEUDO, f"{C}.weight=0", *SHORT],
    "intrinsic dimension": ["method=intrinsic_dimension", f"{D}.neighbours=5", "model.dropout=0.1"],
    "gan": [*GENERATE, "method=gan", "model=generator/gan", "method.critic_width=8"],
    "diffusion": [*GENERATE, "method=diffusion", "model=generator/diffusion", "model.sampling_steps=2"],
}  # fmt: skip
"""One process, undisturbed."""

RESUMED = {"guidance: uncertainty": 100, "p-ssl: mean_teacher": 100, "fitnets": 50}
"""Runs that are also broken off after a step and continued: the same numbers again."""

TWO_RANKS: dict[str, list[str]] = {
    "guidance on two ranks": [*GUIDE, "hardware=ddp_cpu", *SHORT],
    "features on two ranks": [
        *FEATURES,
        f"objective@{F}=pkt",
        f"{F}.weight=900",
        "hardware=ddp_cpu",
        *SHORT,
    ],
}

SYNTHESIS = [
    "method=synthesis", "model=generator/noise", "+model.num_classes=3", "method.count=80", "method.shard_size=32",
    "data.classes=[5,6,7,8,9]", CENTRED, "logger=none", "hardware.threads=1",
]  # fmt: skip
"""The bytes of a pseudo data set."""
