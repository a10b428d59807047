"""Every mistake in a command: one message that says expected, got and choices; exit code 2; no traceback; nothing lost."""

from __future__ import annotations

import os
import pickle

import pytest

from tutelage.cli.main import main

QUICK = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=2",
    "fit.validate_every_steps=1",
    "model.depth=2",
    "model.width=8",
]


def fails(capsys, *words, code=2):
    ended = main(list(words))
    captured = capsys.readouterr()
    assert ended == code, captured
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optimizer.lrr=0.1", "did you mean 'optimizer.lr'"),
        ("optimizer.learning_rate=0.1", "did you mean 'optimizer.lr'"),
        ("optimizer.learningRate=0.1", "did you mean 'optimizer.lr'"),
        ("optimizer.weightdecay=0.1", "did you mean 'optimizer.weight_decay'"),
        (
            "optimizer.learningrate=0.1",
            "there is no setting 'optimizer.learningrate' in this command; known: ",
        ),
        ("label_smoothing=0.1", "did you mean 'method.objectives.task.label_smoothing'"),
        ("lr=0.1", "did you mean 'optimizer.lr'"),
        ("optimizer.wd=0.1", "did you mean 'optimizer.weight_decay'"),
        ("optimizer.lr=interval(1e-4,1e-1)", "an interval is for a search; add -m hydra/sweeper=optuna"),
        ("optimizer.lr=range(1,3)", "several values make a sweep: add -m"),
        ("data.root=a,b", "A value with a comma in it has quotes of its own: \"data.root='a,b'\""),
        ("fit.max_stps=9", "Known: fit.accumulate, fit.checkpoint_every_s"),  # the section's keys alone
        ("hardware.devices=999", "this machine has"),
        ("data=image_folder data.root=/no/such", "tutelage: there is no file or folder /no/such"),
        ("data=image_folder data.root=", "data.root must name existing data; got an empty text"),
        ("data=cifar10 data.root=", "data.root must name existing data; got an empty text"),
        ("data=pseudo data.root=", "data.root must name existing data; got an empty text"),
        ("model@second=convnet", "another frozen one is added, +model@frozen.second=<model>"),
        ("model@giude=convnet", "known are model@guide, model@teacher and model@source"),
        ("method.balance={a:1}", "method.balance must be text, got {'a': 1} (dict)"),
        ("dta=digits", "did you mean 'data'"),
        ("arms=gided", "train -m sweep=<table> arms=<label>,<label>"),
        ("objective@method.objectives.crd=cdr", "there is no objective 'cdr'; did you mean 'crd'"),
        (
            "objective@method.objectives.crd=crd",
            "a further one is added, +objective@method.objectives.crd=crd",
        ),
        ("+data.augment.flp={}", "there is no augmentation 'flp'; did you mean 'horizontal_flip'"),
        ("~model.depht", "there is no setting 'model.depht' to take away; did you mean 'model.depth'"),
        ("+optimizer.schedule=cosine", "is there already: give optimizer.schedule=<value>, without the plus"),
        ("+optimizer.lr_factors={layer9:0.1}", "is there already, and is no mapping"),
        ("model.weights=pretraned", "or need:<name>; did you mean 'pretrained'?"),
        (
            "fit.monitor=acuracy",
            "there is no metric 'acuracy'; did you mean 'accuracy'? Known: accuracy, auroc",
        ),
        ("fit.metrics=[lss]", "there is no metric 'lss'; did you mean 'loss'"),
        ("hardware.strategy=dpd", "there is no hardware.strategy 'dpd'; did you mean 'ddp'"),
        (
            "method=guidance model@guide=fcn method.objectives.alignment.network=gide",
            "(given: guide), did you mean 'guide'? Else add model@frozen.gide=<model>",
        ),
        ("data=digist", "did you mean 'digits'"),
        ("model=fcm", "did you mean 'fcn'"),
        ("model=" + "x" * 5000, "longer than the file system allows"),
        ("method=guidence", "did you mean 'guidance'"),
        ("experiment=demo/plane", "did you mean 'demo/plain'"),
        ("+fit.max_step=3", "did you mean 'max_steps'"),
        ("+nonsense=1", "no setting 'nonsense'"),
        ("hardware.precision=16-mixed", "16-mixed needs a GPU"),
        ("hydra.run.dir=x", "is for sweeps"),
        ("hydra/launcher=local", "add -m"),
        ("runs_dir=", "runs_dir must name a folder"),
        ("data.validation=1.0", "validation must be a fraction below 1 or a whole number of samples"),
        (
            "method=guidance model@guide=fcn method.objectives.alignment.schedule={name:alone_first,steps:2}",
            "leaves none of fit.max_steps=2 for what follows",
        ),
        ("method=guidance model=gru model@guide=rule/digits_topology data=parity", "these data have none"),
        (
            "method=fitnets model@teacher=fcn method.hint_steps=2",
            "leaves none of fit.max_steps=2 for what follows",
        ),
        ("method=guidance method.pairing=first", "did you mean 'method.objectives.alignment.pairing'?"),
        ("method=guidance method.k=3", "did you mean 'method.objectives.alignment.pairing.k'?"),
        (
            "method=guidance method.similarity=rsa",
            "did you mean 'similarity@method.objectives.alignment.similarity'?",
        ),
        (
            "method=guidance model@guide=fcn method.objectives.alignment.pairing.strategy=first",
            "method.objectives.alignment.pairing.strategy=first needs method.objectives.alignment.pairing.k",
        ),
        (
            "method=guidance model@guide=fcn method.objectives.alignment.schedule.name=until",
            "method.objectives.alignment.schedule.name=until needs method.objectives.alignment.schedule.steps",
        ),
        (
            "+objective@method.objectives.keys=dimension",
            "an objective cannot be named 'keys'",
        ),
        ("model@guide.depth=3", "a setting of it is guide.depth"),
        ("data=copy_paste model=transformer_encoder model.heads=2", "sees the tokens that it is to foretell"),
        (
            "experiment=guidance/cifar10/guided",
            "the setting 'data.root' has no value: give data.root=",
        ),
        (
            "method=feature_distillation model@teacher=fcn method.objectives.feature.powr=4",
            "did you mean 'method.objectives.feature.",
        ),
        ("fit.gradient_clip=0", "fit.gradient_clip must be a number above 0 or nothing (null), got 0"),
        ("data.classes=[0,11]", "class 11 does not exist"),
        ("seed=zero", "seed must be a whole number of at least 0 and at most 4294967295, got 'zero'"),
        ("seed=1.5", "seed must be a whole number"),
        ("seed=-1", "seed must be a whole number of at least 0 and at most 4294967295, got -1"),
        ("seed=0,1", "add -m"),
        ("fit.max_steps=null", "either fit.max_steps or fit.epochs"),
        ("fit.max_steps=0", "fit.max_steps must be a whole number of at least 1 or nothing (null), got 0"),
        ("fit.max_steps=null fit.epochs=0", "fit.epochs must be a number above 0"),
        ("optimizer.lr=fast", "optimizer.lr"),
        ("optimizer.lr=-1", "optimizer.lr must not be negative"),
        ("optimizer.lr=nan", "optimizer.lr must be a number"),
        ("optimizer.lr=0.0", "optimizer.lr must be a positive number"),
        ("optimizer.name=adma", "did you mean 'adam'"),
        (
            "method=distillation model@teacher=fcn method.objectives.soft.network=3",
            "`network` is the name of a frozen network, or a list of names, got 3",
        ),
        ("optimizer.schedule=cosin", "did you mean 'cosine'"),
        ("+optimizer.momentun=0.9", "momentun"),
        ("model.width=-4", "width"),
        (
            "method=guidance model@guide=fcn method.cache=[guide] data.augment={random_crop:{padding:1}}",
            "method.cache=[guide] needs data that look the same in each epoch",
        ),
        ("model.width=big", "model.width must be a whole number, got 'big'"),
        ("+model.hidden=3", "takes no 'hidden'"),
        ("model.activation=rulu", "did you mean 'relu'"),
        ("model._target_=os.system", "refused"),
        ("model._target_=tutelage.models.fcn.FNC", "did you mean 'FCN'"),
        ("model._target_=no_such_package.Net", "cannot be imported"),
        ("model._target_=tutelage.cli.main.main", "refused"),
        ("data.batch_size=0", "batch_size"),
        ("data.validation=2.5", "validation"),
        ("data.validation=0", "the validation split of Digits is empty: give data.validation"),
        ("hardware.precision=12", "hardware.precision must be one of 32-true, bf16-mixed"),
        ("hardware.precision=bf16_mixed", "did you mean 'bf16-mixed'?"),
        (
            "data=parity data.min_length=0 model=gru",
            "data.min_length must be a whole number of at least 1, got 0",
        ),
        (
            "data=parity data.target=hole model=gru",
            "data.target must be one of whole, prefix, got 'hole'; did you mean 'whole'?",
        ),
        ("hardware.accelerator=tpu", "one of cpu, gpu, mps, auto"),
        ("hardware=gpuu", "did you mean 'gpu'"),
        ("logger.kind=wandbb", "logger.kind"),
        (
            "method=distillation",
            "reads the frozen network 'teacher', which is not there: add model@teacher=<model>",
        ),
        ("+needs.a=3", "list of overrides"),
        ("model.weights=none.safetensors", "no such file"),
        ("model.weights=need:teacher", "no need 'teacher'"),
        ("model.weights=pretrained", "no published weights"),
        ("data=image_folder", "data.root"),
        ("data=mnist data.root=/no/such", "there is no folder /no/such"),
        ("data=fine_grained data.dataset=dtd data.root=/no/such", "there is no folder /no/such"),
        ("name=../../etc", "a run's name"),
        ("runs_dir=/proc/nowhere", "runs_dir="),
        ("model@guide=fcn", "nothing in method Supervised reads the frozen network 'guide'"),
        ("seed", "expected key=value"),
        ("seed==", "seed"),
        ("fit.max_steps=[1", "expected key=value"),
    ],
)
def test_a_wrong_word(capsys, tmp_path, word, says):
    words = ["train", *QUICK, f"runs_dir={tmp_path}", *word.split()]
    assert says in fails(capsys, *words)


def test_words_of_any_language_need_no_quotes(capsys, tmp_path):
    folder = tmp_path / "Läufe 日本"
    assert main(["train", *QUICK, f"runs_dir={folder}"]) == 0
    assert list(folder.glob("adhoc/*/result.json"))
    assert "there is no file or folder" in fails(
        capsys, "train", *QUICK, "data=image_folder", f"data.root={folder}/Büder"
    )


def test_a_network_of_ones_own_by_its_path_alone(capsys, tmp_path):
    words = [
        "train",
        "logger=none",
        "fit.max_steps=2",
        "hardware.threads=1",
        f"runs_dir={tmp_path}",
        "model=own",
    ]
    assert "model._target_=<value>" in fails(capsys, *words)
    assert main([*words, "model._target_=tutelage.models.fcn.FCN", "+model.depth=2", "+model.width=8"]) == 0


def test_a_guide_that_does_not_fit_is_called_the_guide(capsys, tmp_path):
    words = ["train", *QUICK, f"runs_dir={tmp_path}", "method=guidance", "model@guide=relu_rnn"]
    assert "tutelage: guide: Recurrent takes tokens" in fails(capsys, *words)


def test_a_network_that_returns_two_tensors_is_told_so(capsys, tmp_path, monkeypatch):
    (tmp_path / "pairs.py").write_text(
        "from torch import nn\n"
        "class Pair(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x.flatten(1)), x\n"
    )
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "logger=none",
        "fit.max_steps=2",
        "hardware.threads=1",
        f"runs_dir={tmp_path}/runs",
        "model=own",
    ]
    said = fails(capsys, *words, "model._target_=pairs.Pair")
    assert "pairs.Pair must return one tensor" in said
    assert "got tuple with [0] (2, 10), [1] (2, 1, 8, 8)" in said


def test_cka_of_two_samples_guides_nothing_and_is_refused(capsys, tmp_path):
    words = [
        "train",
        *QUICK,
        f"runs_dir={tmp_path}",
        "method=guidance",
        "model@guide=residual_convnet",
        "data.batch_size=2",
    ]
    assert "needs a batch of at least 3" in fails(capsys, *words)


def test_a_rule_is_no_network(capsys, tmp_path):
    words = ["train", "logger=none", f"runs_dir={tmp_path}", "model=rule/oriented_gradients"]
    assert "it can only guide" in fails(capsys, *words)


def test_whole_numbers_may_be_written_with_an_exponent(capsys, tmp_path):
    assert main(["train", *QUICK, f"runs_dir={tmp_path}", "fit.max_steps=2e0", "model.width=8e0"]) == 0
    assert main(["train", *QUICK, f"runs_dir={tmp_path}"]) == 0
    assert "stored result" in capsys.readouterr().err


def test_a_wrong_word_inside_a_multirun(capsys, tmp_path):
    assert "did you mean 'optimizer.lr'" in fails(
        capsys, "train", "-m", *QUICK, f"runs_dir={tmp_path}", "optimizer.lrr=1,2"
    )


def test_an_unknown_command_and_option(capsys):
    assert "did you mean 'train'" in fails(capsys, "trian")
    assert "no option '--fast'" in fails(capsys, "train", "--fast")


def test_a_failing_job_of_a_sweep_leaves_the_others(capsys, tmp_path):
    code = main(["train", "-m", *QUICK, f"runs_dir={tmp_path}", "model.activation=relu,rulu"])
    error = capsys.readouterr().err
    assert code == 2
    assert "1 of 2 jobs failed" in error
    assert "did you mean 'relu'" in error
    assert main(["train", *QUICK, f"runs_dir={tmp_path}", "model.activation=relu"]) == 0
    assert "stored result" in capsys.readouterr().err


def test_weights_of_another_network_are_refused_with_both_sides(capsys, tmp_path):
    assert main(["train", *QUICK, f"runs_dir={tmp_path}"]) == 0
    capsys.readouterr()
    (weights,) = tmp_path.glob("adhoc/*/network.safetensors")
    error = fails(
        capsys,
        "train",
        *QUICK,
        f"runs_dir={tmp_path}",
        "model.depth=3",
        "model.width=9",
        f"model.weights={weights}",
    )
    assert "layers.2" in error
    assert "shape" in error


class Payload:
    def __reduce__(self):
        return (os.mkdir, (os.environ["PAYLOAD"],))


def test_a_hostile_checkpoint_is_refused_and_not_executed(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "owned"))
    hostile = tmp_path / "weights.ckpt"
    hostile.write_bytes(pickle.dumps(Payload()))
    error = fails(capsys, "train", *QUICK, f"runs_dir={tmp_path}/runs", f"model.weights={hostile}")
    assert str(hostile) in error
    assert not (tmp_path / "owned").exists()


def test_a_loss_that_is_not_finite_names_step_and_term_and_keeps_the_checkpoint(capsys, tmp_path):
    words = [
        *QUICK,
        f"runs_dir={tmp_path}",
        "optimizer=sgd",
        "optimizer.lr=1e30",
        "model.batch_norm=false",
        "fit.max_steps=40",
        "fit.checkpoint_every_s=0",
    ]
    error = fails(capsys, "train", *words, code=1)  # the command is not wrong: its run failed
    assert "not finite at step" in error
    assert "task" in error
    (run,) = (path.parent for path in tmp_path.glob("adhoc/*/config.yaml"))
    assert (run / "failed.json").exists()
    assert "not finite" in fails(capsys, "train", "-m", *words, "seed=0", code=1)
    assert not (run / "result.json").exists()
    fails(
        capsys, "train", *words[:-1], "optimizer.lr=1e29", "name=early", code=1
    )  # before anything was recorded or saved
    (early,) = tmp_path.glob("early/*/failed.json")
    assert "not finite" in early.read_text()


def test_a_sweep_without_a_job_is_said(tmp_path, capsys):
    assert "has no value" in fails(capsys, "train", "-m", *QUICK, f"runs_dir={tmp_path}", "seed=range(0,0)")


def test_a_wrong_setting_of_a_launcher_is_answered_with_the_launchers_own(capsys):
    said = fails(
        capsys, "train", "-m", *QUICK, "hydra/launcher=local", "hydra.launcher.proceses=2", "seed=0,1"
    )
    assert "did you mean 'hydra.launcher.processes'" in said and "data." not in said
