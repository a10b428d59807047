"""Wrong commands by the thousand, made from right ones: every mutation is wrong by construction, so exit code 2 is the only right end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

QUICK = ["logger=none", "hardware.threads=1", "fit.max_steps=1", "fit.validate_every_steps=1"]
FCN = ["model=fcn", "model.depth=2", "model.width=8"]
VALID: dict[str, list[str]] = {
    "supervised": FCN,
    "convnet": ["model=convnet", "model.width=4", "model.blocks=1", "optimizer=sgd"],
    "guidance": [*FCN, "method=guidance", "model@guide=residual_convnet", "guide.width=4"],
    "distillation": [*FCN, "method=distillation", "model@teacher=convnet", "teacher.width=4"],
    "fitnets": [*FCN, "method=fitnets", "model@teacher=convnet", "teacher.width=4", "method.hint_steps=1", "fit.max_steps=2"],
    "features": [*FCN, "method=feature_distillation", "model@teacher=convnet", "teacher.width=4"],
    "text": ["data=copy_paste", "model=relu_rnn", "model.width=8", "data.train_size=64", "data.validation_size=64",
             "data.test_size=64"],
    "parity": ["data=parity", "model=relu_rnn", "model.per_position=false", "model.depth=1", "model.width=8"],
    "gan": ["method=gan", "model=generator/gan", "model.width=8", "model.depth=1", "method.critic_width=8", "model@source=convnet",
            "source.width=4", "data.normalization=[[0.5],[0.5]]", "method.quality_samples=16"],
    "synthetic": ["data=synthetic", *FCN],
}  # fmt: skip
"""Commands that are accepted (a test says so), each the source of mutations."""

# Not wrong: any text is a name of a project; a long run is a long run; a negative weight of a term or split seed has a meaning;
# 0 steps of warm-up and the like. Values for which a key has its own meaning.
FREE = {
    "logger.project", "runs_dir", "name", "data.download", "data.root", "data.cache_dir", "model.name", "data.fingerprint",
}  # fmt: skip
NEGATIVE_IS_FINE = ("method.objectives.dimension.weight", "hardware.devices")
NULL_IS_FINE = (
    "data.split_seed",
    "fit.validate_every_steps",
    "hardware.threads",
    "optimizer.fused",
    "method.objectives.alignment.tokens_per_step",
    "model.per_position",
)


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def wrong_values(key: str, value: Any) -> list[str]:
    """Values that a key cannot have, judged by the value that it has."""
    if key in FREE or key.endswith("_target_"):
        return ["{zzz: 1}", "[1]"]
    negative = [] if key.startswith(NEGATIVE_IS_FINE) else ["-3"]
    if isinstance(value, bool):
        return ["maybe", "3", "[true]", "{zzz: 1}", *([] if key.startswith(NULL_IS_FINE) else ["null"])]
    if isinstance(value, int):
        null = [] if key.startswith(NULL_IS_FINE) else ["null"]
        return ["text", "1.5", "[1,2]", "{zzz: 1}", "true", "nan", "inf", "'3'", "9" * 40, *null, *negative]
    if isinstance(value, float):
        return ["text", "[0.5]", "{zzz: 1}", "true", "nan", "'0.5'", "null", *(["-2.5"] if negative else [])]
    if isinstance(value, str):
        return [
            f"{value[:-1]}~x" if len(value) > 1 else "~x",
            "[]",
            "{zzz: 1}",
            "3",
            "true",
            "'ключ ✗'",
            "''",
        ]
    if isinstance(value, list):
        return ["text", "3", "{zzz: 1}", "[[[text]]]"]
    if isinstance(value, dict):
        return ["text", "3", "[1]"]
    return ["{zzz: 1}"]


def of_values(words: list[str], config: dict[str, Any]) -> Iterator[list[str]]:
    for key, value in config.items():
        for wrong in wrong_values(key, value):
            prefix = "" if value is not None or "." not in key else "++"
            yield [*words, f"{prefix}{key}={wrong}"]


def of_keys(words: list[str], config: dict[str, Any], draw: random.Random) -> Iterator[list[str]]:
    keys = list(config)
    for key in keys:
        name = key.rpartition(".")[2]
        place = draw.randrange(len(name))
        for typo in (name[:place] + "q" + name[place:], name + "_", name.upper()):
            bad = key[: len(key) - len(name)] + typo
            if bad not in keys and bad != key:
                yield [*words, f"{bad}=1"]
                yield [*words, f"+{bad}=1"]


def of_words(words: list[str]) -> Iterator[list[str]]:
    odd = [
        "", "=", "=3", "seed", "seed==", "a=b=c", "fit.max_steps=[1", "fit.max_steps={a:1", "seed='1", "name=\"x", "ключ=1", "🙂=🙂",
        "fit..max_steps=3", ".seed=1", "seed.=1", "seed. =1", "fit=3", "fit=null", "model=null", "data=null", "method=null",
        "optimizer=null", "hardware=null", "logger=null", "method=[guidance]", "data=../../../etc/passwd", "data=/etc/passwd",
        "model=" + "x" * 5000, "x" * 20000, "name=" + "x/" * 3000, "name=" + "n" * 300, "name=''",
        "name=a b", "name=ü", "name=/abs",
        "name=a/../b", "name=a\tb", "name=con\x07", "runs_dir=/dev/null/x", "runs_dir=/proc/x", "runs_dir=''", "runs_dir=null",
        "model.width=${nope}", "model.width=${oc.env:NO_SUCH_VARIABLE}", "model.width=${model.width}",
        "seed=${", "seed=$", "seed=\\",
        "model.width=${oc.decode:[}", "model.weights=/nope.safetensors", "model.weights=/etc/passwd",
        "model.weights=/", "model.weights=need:",
        "+needs.a=[experiment=nope]", "+needs.a=[--help]", "+needs.a=[]=", "+needs=3", "needs=3",
        "+needs.a={b:[c]}", "~seed", "~fit",
        "~fit.max_steps", "~model", "~name", "~data._target_", "~optimizer.lr", "+seed=1", "+model=fcn",
        "model@nope=fcn", "model@guide=nope",
        "experiment=nope", "experiment=demo", "experiment=../demo/plain", "sweep=nope", "hydra/launcher=nope", "hydra/sweeper=nope",
        "hydra.nope=1", "hydra.launcher=3", "hydra.sweeper.params=3", "fit.max_steps=null", "fit.epochs=3", "fit.epochs=-1",
        "hardware.accelerator=gpu", "hardware=fsdp", "hardware=mps", "hardware.strategy=nope",
        "hardware.precision=64", "hardware.devices=0",
        "hardware.devices=[]", "hardware.devices=99", "hardware.num_nodes=0", "hardware.num_nodes=2",
        "data.validation=1.5", "data.validation=0",
        "data.classes=1", "data=image_folder data.root=/nope", "-m=1", "--multirunn", "-x", "seed=1,2",
        "seed=range(3)", "seed=choice(1,2)",
        "model._target_=os.system", "model._target_=torch.load", "model._target_=builtins.eval", "model._target_=subprocess.Popen",
        "model._target_=tutelage.models.fcn", "model._target_=tutelage.runs.store.Store", "model._target_=torch.nn.Linear",
        "data._target_=tutelage.models.fcn.FCN", "method._target_=tutelage.models.fcn.FCN",
        "model._target_=tutelage.data.images.Digits",
        "model._target_=..fcn", "model._target_='a b.c'", "model._target_=pickle.loads", "model._target_=torch.hub.load",
    ]  # fmt: skip
    for word in odd:
        yield [*words, *word.split(" data.")[:1], *(f"data.{w}" for w in word.split(" data.")[1:])]


def of_shapes() -> Iterator[list[str]]:
    pairs = [
        ("digits", "relu_rnn"), ("digits", "parity_transformer"), ("digits", "gru"),
        ("copy_paste", "fcn"), ("copy_paste", "convnet"), ("parity", "convnet"), ("parity", "resnet18"),
        ("synthetic", "transformer_decoder"),
        ("digits", "transformer_encoder"), ("digits", "transformer_decoder"),
        ("digits", "generator/gan"), ("digits", "generator/biggan"), ("digits", "generator/dit"), ("digits", "generator/noise"),
    ]  # fmt: skip
    for data, model in pairs:
        yield [f"data={data}", f"model={model}"]
    for method, role in (
        ("guidance", "teacher"),
        ("distillation", "guide"),
        ("supervised", "guide"),
        ("gan", "teacher"),
    ):
        yield [f"method={method}", f"model@{role}=convnet"]
    yield ["method=guidance"]
    yield ["method=gan", "model@source=convnet"]
    yield ["method=guidance", "model@guide=relu_rnn"]
    yield ["method=distillation", "model@teacher=rnn"]
    yield ["model=convnet", "model.stages=9"]
    yield ["data.batch_size=3", "hardware=ddp_cpu"]


COMMANDS: list[list[str]] = [
    ["trian"], ["--nope"], ["train", "--fast"], ["evaluate"], ["evaluate", "nope"], ["evaluate", "seed=1"],
    ["evaluate", "nope", "split=tset"],
    ["report"], ["report", "nope"], ["report", "nope.yaml"], ["report", "../.."], ["report", "seed=1"], ["report", "a", "b"],
    ["reproduce"], ["reproduce", "nope"], ["reproduce", "guidance/digits", "processes=0"], ["reproduce",
    "guidance/digits", "processes=x"],
    ["reproduce", "guidance/digits", "processes=2", "hydra/launcher=local"], ["reproduce", "guidance/digits", "hydra/launcher=nope"],
    ["reproduce", "guidance/digits", "--dry", "nope=3"], ["list"], ["list", "nope"], ["list", "runs", "--state", "nope"],
    ["list", "runs", "last=0"], ["list", "runs", "--since", "yesterday"], ["list", "runs", "--nope"], ["list", "runs", "../.."],
    ["analyse"], ["analyse", "nope"],
    ["doctor", "nope=1"], ["doctor", "--nope"], ["doctor", "experiment=nope"], ["doctor", "--build", "model.width=-1"],
    ["train", "-m", "hydra/launcher=local", "hydra.launcher.processes=0", "seed=0,1"],
    ["train", "-m", "hydra/launcher=local", "hydra.launcher.processes=many", "seed=0,1"],
    ["train", "-m", "hydra/launcher=nope", "seed=0,1"], ["train", "-m", "hydra/sweeper=nope", "seed=0,1"],
    ["train", "-m", "hydra/launcher=slurm", "hydra.launcher.cluster=debug", "hydra.launcher.mem_gb=-1", "seed=0,1"],
    ["train", "-m", "hydra/launcher=slurm", "hydra.launcher.cluster=debug", "hydra.launcher.more=1", "seed=0,1"],
    ["train", "-m", "hydra/launcher=local", "hydra.launcher.nope=1", "seed=0,1"], ["train", "-m", "seed=interval(0,1)"],
]  # fmt: skip


def everything(compose: Any, seed: int = 0) -> list[list[str]]:
    """Return every mutation, as words of the command line, in a fixed order."""
    draw = random.Random(seed)
    found: list[list[str]] = []
    seen: dict[Any, None] = {}
    for name, words in VALID.items():
        own = ["train", *QUICK, *words]
        config = dict(flat(compose(own[1:])))
        # A key counts once for each object that has it.
        place = {key: (key, config.get(f"{key.partition('.')[0]}._target_")) for key in config}
        fresh = {key: value for key, value in config.items() if place[key] not in seen}
        seen |= dict.fromkeys(place.values())
        found += of_values(own, fresh)
        found += of_keys(own, fresh, draw)
        if name in ("supervised", "guidance"):
            found += of_words(own)
    found += [["train", *QUICK, *words] for words in of_shapes()]
    return list({tuple(words): words for words in found}.values())
