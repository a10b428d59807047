"""The words of every golden run. Where keys change, these lines change; the numbers they gave do not."""

from __future__ import annotations

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
    "model=copy_paste_rnn",
    "model.depth=2",
]
GUIDE = ["method=guidance", "model.dropout=0.1", "model@guide=residual_convnet", "guide.width=4"]
TOKEN_GUIDE = [
    "method=guidance",
    *COPY,
    "model@guide=copy_paste_transformer",
    "guide.width=12",
    "guide.depth=2",
    "method.compare=tokens",
]
CONVNET = ["model@teacher=residual_convnet", "teacher.width=4"]
TEACHER = ["model.dropout=0.1", *CONVNET]
SOFT = ["method=distillation", *TEACHER]
FEATURES = ["method=feature_distillation", *TEACHER]
SERIES = ["data=series", "data.length=12", "data.horizon=4", "data.root={series}"]
CENTRED = "data.normalization=[[0.5],[0.5]]"
GENERATE = ["model@source=residual_convnet", "source.width=4", CENTRED, "model.width=8", "model.depth=1", "method.quality_samples=16",
            "fit.max_steps=20", "fit.validate_every_steps=20", "fit.log_every_steps=10"]  # fmt: skip
PSEUDO = ["method.pseudo={pseudo}", CENTRED, "method.ratio=0.5", "method.weak.random_crop.padding=1",
          "method.strong.random_crop.padding=1", "model.dropout=0.1", "optimizer.lr=5e-3"]  # fmt: skip

WORDS: dict[str, list[str]] = {
    "supervised": ["model.dropout=0.1"],
    "supervised: a schedule, clipping, two batches an update":
        ["optimizer=sgd", "optimizer.lr=0.05", "optimizer.schedule=cosine", "optimizer.warmup_steps=5", "fit.gradient_clip=1.0",
         "fit.accumulate=2", *SHORT],
    "supervised: parity": [*PARITY, *SHORT],
    "supervised: copy-paste": [*COPY, *SHORT],
    "supervised: a series": [*SERIES, *SHORT],
    "guidance": GUIDE,
    "guidance: unbiased_cka": [*GUIDE, "method.similarity=unbiased_cka"],
    "guidance: rsa": [*GUIDE, "method.similarity=rsa", "method.weights.alignment=0.5"],
    "guidance: ridge": [*GUIDE, "method.similarity=ridge", "method.ridge_penalty=100", "method.projection_size=64"],
    "guidance: tokens": [*TOKEN_GUIDE, "method.tokens_per_step=100"],
    "guidance: all tokens, unbiased_cka": [*TOKEN_GUIDE, "method.tokens_per_step=null", "method.similarity=unbiased_cka", *SHORT],
    "guidance: sequences as samples": [*PARITY, "method=guidance", "model@guide=parity_rnn", "guide.width=8", *SHORT],
    "guidance: until": [*GUIDE, "method.schedule=until", "method.schedule_steps=101"],
    "guidance: alignment_first": [*GUIDE, "method.schedule=alignment_first", "method.schedule_steps=75"],
    "guidance: linear": [*GUIDE, "method.schedule=linear", *SHORT],
    "guidance: cosine": [*GUIDE, "method.schedule=cosine", "method.schedule_steps=40", *SHORT],
    "guidance: uncertainty": [*GUIDE, "method.schedule=uncertainty"],
    "guidance: gradient_norm": [*GUIDE, "method.schedule=gradient_norm"],
    "guidance: gaussian": [*GUIDE, "method.guide_input=gaussian", *SHORT],
    "guidance: released_noise": [*GUIDE, "method.guide_input=released_noise", *SHORT],
    "guidance: noise to both":
        [*GUIDE, "method.guide_input=gaussian", "method.noise_to=both", "method.schedule=alignment_first",
         "method.schedule_steps=75"],
    "guidance: remembered": [*GUIDE, "method.cache_guide=true"],
    "guidance: first 3": [*GUIDE, "method.pairing=first", "method.k=3", *SHORT],
    "guidance: last 3, spread": [*GUIDE, "method.pairing=last", "method.k=3", "method.positions=spread", *SHORT],
    "guidance: convolutions": [*GUIDE, "method.pairing=type", "method.layer_type=conv", *SHORT],
    "guidance: one_to_many": [*GUIDE, "method.pairing=one_to_many", *SHORT],
    "guidance: explicit":
        [*GUIDE, "method.pairing=explicit", "method.pairs=[[blocks.0.conv1,layers.0.linear],[head,head]]", *SHORT],
    "guidance: the last of several, without outputs":
        [*GUIDE, "method.many_to_one=last", "method.exclude_output=true", *SHORT],
    "guidance: batch statistics": [*GUIDE, "method.norm_mode=batch", *SHORT],
    "guidance: a rule": ["method=guidance", "model@guide=rule/oriented_gradients", "guide.cell=2", *SHORT],
    "guidance: a rule of targets": ["method=guidance", "model@guide=rule/digits_topology", *SHORT],
    "distillation: soft": SOFT,
    "distillation: logits": [*SOFT, "method.loss=logits", "method.weights={task: 0.7, soft: 0.02}"],
    "distillation: decoupled": [*SOFT, "method.loss=decoupled", "method.temperature=4"],
    "distillation: another label space":
        [*SOFT, "method.label_space=other", "teacher.weights={teacher}", "teacher.depth=2", "model@teacher=fcn", "teacher.width=16",
         "data.classes=[0,1,2]"],
    "distillation: logits of another label space":
        [*SOFT, "method.label_space=other", "teacher.weights={teacher}", "teacher.depth=2", "model@teacher=fcn", "teacher.width=16",
         "data.classes=[0,1,2]", "method.loss=logits", *SHORT],
    "distillation: remembered": [*SOFT, "method.cache_teacher=true"],
    "distillation: batch statistics": [*SOFT, "method.norm_mode=batch", *SHORT],
    "distillation: copy-paste":
        [*COPY, "method=distillation", "model@teacher=copy_paste_transformer", "teacher.width=12", "teacher.depth=1", *SHORT],
    "distillation: a series": [*SERIES, "method=distillation", "model@teacher=fcn", "teacher.depth=1", "teacher.width=8", *SHORT],
    "features: hint": FEATURES,
    "features: attention":
        ["method=feature_distillation", *CONVNET, "method.loss=attention", "model=convnet", "model.blocks=1", "model.width=4",
         "method.weights.feature=10",
         "+method.loss_options.power=3", *SHORT],
    "features: relational": [*FEATURES, "method.loss=relational", "method.weights.feature=25", *SHORT],
    "features: similarity": [*FEATURES, "method.loss=similarity", "method.weights.feature=3000", *SHORT],
    "features: pkt": [*FEATURES, "method.loss=pkt", "method.weights.feature=900", "method.k=3", *SHORT],
    "features: cross_correlation":
        [*FEATURES, "method.loss=cross_correlation", "method.weights.feature=1", "method.pairing=even", "method.k=null", *SHORT],
    "features: hints of positions":
        [*COPY, "method=feature_distillation", "model@teacher=copy_paste_transformer", "teacher.width=12", "teacher.depth=1",
         "method.weights.feature=1", *SHORT],
    "fitnets": ["method=fitnets", *TEACHER, "method.hint_steps=100"],
    "p-ssl: uda": ["method=pseudo_ssl/uda", *PSEUDO, "method.threshold=0.2"],
    "p-ssl: fixmatch":
        ["method=pseudo_ssl/fixmatch", *PSEUDO, "method.threshold=0.2", "method.ema_decay=0.9", "method.batch_norm=labelled", *SHORT],
    "p-ssl: pseudo_label": ["method=pseudo_ssl/pseudo_label", *PSEUDO, "method.threshold=0.2", "method.ramp_steps=100"],
    "p-ssl: mean_teacher": ["method=pseudo_ssl/mean_teacher", *PSEUDO, "method.ema_decay=0.9", "method.ramp_steps=100"],
    "p-ssl: without weight":
        ["method=pseudo_ssl/uda", *PSEUDO, "method.weights.consistency=0", *SHORT],
    "intrinsic dimension": ["method=intrinsic_dimension", "method.neighbours=5", "model.dropout=0.1"],
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
        "method.loss=pkt",
        "method.weights.feature=900",
        "hardware=ddp_cpu",
        *SHORT,
    ],
}

SYNTHESIS = [
    "method=synthesis", "model=generator/noise", "+model.num_classes=3", "method.count=80", "method.shard_size=32",
    "data.classes=[5,6,7,8,9]", CENTRED, "logger=none", "hardware.threads=1",
]  # fmt: skip
"""The bytes of a pseudo data set."""
