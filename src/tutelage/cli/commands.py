"""The table of commands: what each takes, and its help. A new command is one file with a `run(given)` and one entry here."""

from __future__ import annotations

from tutelage.analysis.analyses import ANALYSES
from tutelage.cli.reader import ANY, Command, Example, Flag, Option

_RUNS_DIR = Option("runs_dir", "runs", "the folder of runs")
_CODE = Option(
    "code",
    "",
    "modules, separated by commas, that the run's configuration may import: said where a run that you did not"
    " make names your own code",
    value="my_networks",
)
_SPLIT = Option("split", "test", "train | validation | test", choices=("train", "validation", "test"))
_DEVICE = Option("device", "cpu", "cpu | gpu | mps")
_DRY = Flag("--dry", "say what would be done, and leave it")
_SWEEP = ("--multirun",)
_FILTERS = (
    Option("state", "", "runs: complete | failed | interrupted | running"),
    Option("method", "", "runs: by method, such as guidance"),
    Option("data", "", "runs: by data, such as digits"),
    Option("since", "", "runs: finished on or after this date, 2026-01-31"),
    Option("before", "", "runs: finished before this date"),
)
_SETTINGS = (
    Example(
        "--verbose",
        "show what else goes into the run's log: layer pairs, each validation, warnings of libraries",
    ),
    Example("rerun=true", "archive the earlier attempt and run again"),
    Example("retry=2", "try a job again that failed for no fault of its words (a full disk, a lost device)"),
    Example(
        "on_failure=continue|stop", "of a sweep: go on with the other jobs (default), or begin no further one"
    ),
)

COMMANDS: dict[str, Command] = {
    "train": Command(
        "train",
        "run one experiment, or a sweep with -m (Hydra overrides)",
        ("[-m] [group=choice ...] [key=value ...]",),
        (
            "One run in runs/<name>/<identity>: the same command gives the same folder. Complete: the stored "
            "result is shown. Interrupted: it resumes exactly. With -m, values separated by commas make a "
            "sweep, and `sweep=<name>` is a prepared one; giving the same sweep again finishes it.",
            "What failed is listed at the end, with the reason and the log. Exit code: 0; 1 a run failed; 2 a"
            " mistake in the command.",
        ),
        (
            Flag("-m", "a sweep", also=_SWEEP),
            Example("experiment=demo/plain", "a prepared experiment (`tutelage list experiments`)"),
            Example(
                "data= model= method= optimizer= hardware= logger=", "choices (`tutelage list models`, ...)"
            ),
            Example("model@guide= model@teacher=", "the frozen network that a method learns under"),
            Example(
                "seed=0 fit.max_steps=2000",
                "any setting (`tutelage doctor <the same words>` shows them all, and where each comes from)",
            ),
            *_SETTINGS,
        ),
        settings=ANY,
        examples=(
            "train method=guidance model@guide=residual_convnet data=digits",
            "train -m experiment=demo/plain,demo/distilled seed=0,1,2",
            "train -m hydra/sweeper=optuna hydra.sweeper.trials=20 'model.depth=range(2,9)' "
            "'optimizer.lr=tag(log,interval(1e-4,1e-1))'",
        ),
    ),
    "evaluate": Command(
        "evaluate",
        "evaluate a finished run on any data that fit",
        ("<run> [data=<choice>] [data.key=value ...] [split=test] [device=cpu]",),
        (
            "<run> is a folder, or a name with the first digits of an identity (`tutelage list runs`). "
            "Without data= the run's own data are used. The metrics are printed and appended to the run's "
            "evaluations.jsonl; its result is not touched.",
        ),
        (_SPLIT, Option("device", "cpu", "cpu | gpu | mps", choices=("cpu", "gpu", "mps")), _RUNS_DIR, _CODE),
        names=(1, 1),
        needs="a run, such as runs/demo/plain/<identity>,",
        settings=("data=", "data."),
    ),
    "export": Command(
        "export",
        "write a finished run's network in a format that leaves, with a model card",
        (
            "<run> [format=safetensors] [normalise=true] [quantise=none] [out=<folder>] [licence=...] [hub=<repository>]",
        ),
        (
            "A folder with the network for any batch size, a model card (README.md) and what `tutelage.load_exported(folder)` needs, "
            "anywhere and without the run. It is read back and compared with the network on validation samples; the largest difference is "
            "printed. Nothing of the run is changed.",
        ),
        (
            Option(
                "format",
                "safetensors",
                "safetensors | torch_export | onnx | openvino",
                choices=("safetensors", "torch_export", "onnx", "openvino"),
            ),
            Option(
                "normalise", "true", "true: the inputs are normalised inside | false: they come normalised"
            ),
            Option(
                "quantise",
                "none",
                "format=onnx in int8, with accuracy, size and latency beside the floats': dynamic (activations by the batch) | static "
                "(ranges from training samples) | weights (smaller alone)",
                choices=("none", "dynamic", "static", "weights"),
            ),
            Option("out", "", "the folder; an earlier export there is replaced", value="runs/exports/..."),
            Option("licence", "", "what the model card says the weights may be used for", value="apache-2.0"),
            Option(
                "hub", "", "send the folder to this repository of the Hugging Face hub, too", value="me/name"
            ),
            _RUNS_DIR,
            _CODE,
        ),
        names=(1, 1),
        needs="a run, such as runs/demo/plain/<identity>,",
        examples=("export demo/plain/3f2a format=onnx", "export demo/plain/3f2a normalise=false out=plain"),
    ),
    "predict": Command(
        "predict",
        "write what a run's network, or an exported one, answers for files or data to a CSV",
        (
            "<run or export folder> <images, a folder of them, or a table> [out=predictions.csv]",
            "<run> [data=<choice>] [data.key=value ...] [split=test] [out=predictions.csv]",
        ),
        (
            "Classes by name with all probabilities, labels, or values in their own unit, a row for each sample. A table needs the columns "
            "of the inputs alone. Nothing of the run is changed.",
        ),
        (
            _SPLIT,
            Option("out", "predictions.csv", "the file to write"),
            _RUNS_DIR,
            _CODE,
        ),
        names=(1, None),
        needs="a run, or a folder of `tutelage export`,",
        settings=("data=", "data."),
    ),
    "synthesize": Command(
        "synthesize",
        "make a pseudo data set of a frozen generator, or finish or mend one",
        ("[group=choice ...] [key=value ...]", "<run> [runs_dir=runs] [code=my_networks]"),
        (
            "Images of a frozen generator as shards in runs/<name>/<identity>/shards, with a manifest of "
            "hashes. The same command gives the same folder: killed, it goes on; complete, every shard is "
            "checked, and what is missing or damaged is made again with the same bytes.",
            "Its readers: `data=pseudo data.root=<folder>` (PP), and `method=pseudo_ssl/uda "
            "method.objectives.consistency.pseudo=<folder>` (P-SSL), or need:<name>.",
        ),
        (
            Example(
                "model=generator/diffusion model.weights=<run of a generator>",
                "or generator/gan, biggan, dit, noise",
            ),
            Example(
                "method.labelling=uniform",
                "classes in turn (PP) | soft | sampled | argmax: a source classifier reads target images",
            ),
            Example(
                "model@source=<model> source.weights=<run> data=<target data>", "for soft, sampled and argmax"
            ),
            Example("method.count=10000 seed=0 hardware=gpu", "any setting"),
            Example("experiment=transfer/shards chain=digits", "a prepared one"),
            _CODE,
        ),
        names=(0, 1),
        settings=ANY,
    ),
    "report": Command(
        "report",
        "turn runs into a table and figures",
        ("<runs> [runs_dir=runs]", "<table> [--replace] [key=value ...]"),
        (
            "<runs>: a name below the runs folder, such as demo: every arm with mean, spread, n and interval "
            "over its seeds, written to runs/<name>/ as report.html (one page with everything, which needs no network), "
            "table.md, table.csv, cells.csv (a row per run) and curves.png.",
            "<table>: a table file such as experiments/guidance/digits.yaml, or guidance/digits: the same "
            "with the published numbers beside and a verdict, written to results/ beside the file. key=value "
            "words are added to every command of the table (data.root=...). A table on the disk that is of "
            "more complete runs than are here stays as it is, unless --replace; what is shown then is made from its cells.",
        ),
        (
            Flag("--replace", "a table: also where one of more runs stands on the disk"),
            Option(
                "columns",
                "",
                "what an arm's network costs, beside its guide or teacher: parameters, flops, size, separated by commas, "
                "and latency, memory, which are measured here",
                value="parameters,latency",
            ),
            _RUNS_DIR,
        ),
        names=(1, 1),
        needs="what to report on, a name below the runs folder or a table file,",
        settings=ANY,
    ),
    "serve": Command(
        "serve",
        "show runs as a page that follows them while they are made",
        ("[<runs> | <table>] [runs_dir=runs] [port=8765] [every=5] [key=value ...]",),
        (
            "The page of `tutelage report`, for this machine's browser alone, looking again every few seconds: arms with "
            "intervals, curves, layer pairs, cost, and a page for every run with its log. It reads files and writes none; "
            "interrupt it (Ctrl-C) to end it.",
            "<runs>: a name below the runs folder; default: all. <table>: a table file, or its name; key=value words are those of "
            "its `report`.",
        ),
        (
            Option("port", "8765", "where; 0: any that is free"),
            Option("every", "5", "seconds between two looks"),
            _RUNS_DIR,
        ),
        names=(0, 1),
        settings=ANY,
    ),
    "reproduce": Command(
        "reproduce",
        "run what a table under experiments/ misses, then report; or a programme of tables, as far as the time goes",
        (
            "<table> [--dry] [processes=N | hydra/launcher=...] [key=value ...]",
            "<programme> [minutes=15] [--dry] [--tiny] [<place>=<folder> ...] [key=value ...]",
        ),
        (
            "<table>: a file such as experiments/guidance/digits.yaml, or guidance/digits. Runs the cells "
            "that are not complete (first those that hyperparameters are chosen from, on validation), then "
            "reports. Interrupted, the same command continues.",
            "key=value words are added to every command (data.root=..., hardware=gpu, retry=2, "
            "on_failure=stop).",
            "<programme>: experiments/programmes/<name>.yaml, such as paper: stages that need more than one session. It measures this "
            "machine, shows what fits, works in the order of worth per minute and stops when the minutes are over; the same command "
            "goes on, also on another machine to which the runs were copied.",
        ),
        (
            Flag(
                "--dry",
                "list the commands that would run; of a programme: the order, and what fits into the time",
            ),
            Flag("--tiny", "a programme: a rehearsal with its smallest settings, one seed"),
            Option("minutes", "", "a programme: how long it may take", value="15"),
            Option("processes", "1", "runs at a time, each in a process of its own; 1: in this process"),
            Example("hydra/launcher=local|slurm", "with their hydra.launcher.key=value, those of a sweep"),
        ),
        names=(1, 1),
        needs="a table",
        settings=ANY,
    ),
    "analyse": Command(
        "analyse",
        "compare finished runs: layer similarity, errors, overfitting, alignment over training",
        tuple(f"{name} {one.runs}" for name, one in ANALYSES.items()),
        (
            "<runs>: a folder, a name with the first digits of an identity, a name (all its finished runs), "
            "or a table file such as guidance/digits (the runs behind each of its arms). <run>:guide is the "
            "guide of that run.",
        ),
        (
            Option(
                "out",
                "",
                "where the figure (PNG), the table (CSV) and the record (JSON) go",
                value="runs/analysis/...",
            ),
            Option(
                "split",
                "test",
                "train | validation | test; for errors, similarity, calibration and quality",
                choices=("train", "validation", "test"),
            ),
            Option(
                "samples",
                "",
                "how many samples of the split, evenly spaced: similarity and robustness (1000), explain (64); quality: "
                "how many images of each set (1000)",
            ),
            Option(
                "layers",
                "weights",
                "similarity: weights (those a pairing counts), all, or names separated by commas",
            ),
            Option(
                "measure",
                "unbiased_cka",
                "similarity: or procrustes, svcca, pwcca, rbf_cka, mutual_neighbours, regression, beside what chance gives",
            ),
            Option(
                "other", "", "calibration: data that the networks should tell from their own", value="svhn"
            ),
            Option(
                "explainers",
                "",
                "explain: saliency, integrated_gradients, grad_cam, occlusion, attention_rollout, kernel_shap, "
                "lime, or all; without it, those that fit of the first five",
            ),
            Option(
                "corruptions",
                "all",
                "robustness: all, none, or names with commas (gaussian_noise, motion_blur, fog, jpeg, ...)",
            ),
            Option(
                "attacks",
                "",
                "robustness: all, none, or some of fgsm, pgd, strong; without it all, on images",
            ),
            Option("epsilon", "8/255", "robustness: the largest change, in pixels from 0 to 1"),
            Option("norm", "linf", "robustness: or l2", choices=("linf", "l2")),
            Option(
                "steps",
                "20",
                "robustness: of PGD; the strong attack takes five times as many for each of its goals",
            ),
            Option("restarts", "1", "robustness: random starts of PGD"),
            Option("queries", "1000", "robustness: of the black-box attack in strong"),
            Option(
                "forms",
                "",
                "int8: static (also without it), dynamic, weights, see `export`",
                value="static,dynamic",
            ),
            Option("x", "", "phases: the setting along the map", value="model.width"),
            Option("y", "", "phases: the setting down the map", value="model.depth"),
            Option("device", "cpu", "cpu | cuda | mps"),
            _RUNS_DIR,
            _CODE,
            Example("data.root=...", "settings of the runs' data"),
        ),
        names=(1, None),
        settings=("data.",),
        verbs={name: one.help for name, one in ANALYSES.items()},
    ),
    "scale": Command(
        "scale",
        "predict how much data a network needs to learn a target, and measure it",
        (
            "predict <case | layer ...> [key=value ...]",
            "measure <case ... | layer ...> [-m] [--dry] [key=value ...]",
            "report  <case ... | folder> [key=value ...]",
        ),
        (
            "<case>: one of `tutelage list cases`; a YAML in conf/scale of your folder is one, too. <layer> "
            "...: dense:N1 dense:N2 | convolution:C,S,n (channels, patch dimension, patches) | attention:L "
            "(context); a letter is a size, a whole number itself.",
            "Every point is a run of its own in runs/scale/<case>/<identity>: the same command reuses, "
            "continues and finishes.",
        ),
        (
            Flag(
                "-m",
                "a sweep; hydra/launcher=local runs its jobs beside each other",
                also=_SWEEP,
                verbs=("measure",),
            ),
            Flag("--dry", "measure: show the points", verbs=("measure",)),
            Option("out", "", "where tables and figures go", value="<folder>"),
            Option("x", "", "predict: the figure's axis", value="N1"),
            Option("y", "", "predict: the figure's other axis", value="N2"),
            Example("N1=1.5 N2=2", "predict, and layers: the sizes as powers of d"),
            Example(
                "degree=3 activation=erf",
                "the target He_degree of a hidden direction; linear, erf, relu or generic",
            ),
            Example("patterns=[GP-Sp,Sp-Mag]", "predict: compare these only"),
            Example(
                "inputs=[8,16,32] draws=12 steps=20000 temperature=0.1 ...",
                "measure: any setting of the case",
            ),
            Example("hardware=gpu hardware.threads=1 runs_dir=runs rerun=true", "as in train"),
        ),
        names=(1, None),
        settings=ANY,
        verbs={
            "predict": "the energy of every pattern of feature learning, the one that learns with the least data P*, how P* "
            "grows with each size, where another pattern takes over, and a figure. Reads rules only: seconds, no torch",
            "measure": "the case's networks, sampled by Langevin dynamics (or trained) at several sizes and P; then P*, "
            "exponents, collapse and verdicts",
            "report": "the same tables from what is stored, or from the results.json of a folder",
        },
        examples=(
            "scale predict three_layer N1=1.4 N2=2",
            "scale measure dense:N1 dense:N2 N1=1 N2=1 inputs=[8,12,16]",
        ),
    ),
    "doctor": Command(
        "doctor",
        "show what a command would run, and what is missing for it",
        ("[--build] [the words of a train command]",),
        (
            "Shows the resolved values with the file that sets each, the run and those it needs with their "
            "states, and whether the code of a finished run has changed since.",
        ),
        (
            Flag(
                "--build",
                "also load the data and build the networks: split sizes, layer pairs with shapes, and what is"
                " missing",
            ),
            Flag("-m", "passed over: a train command may have it", also=_SWEEP),
        ),
        settings=ANY,
    ),
    "diagnose": Command(
        "diagnose",
        "say before any training how signal and gradients pass a network, whether it trains alone, and which guide would help",
        ("[guides=a,b] [steps=60] [rates=100] [the words of a train command]",),
        (
            "Builds the network and the data of the command. Shows for each layer what it is given and how gradients reach it; says how "
            "likely such a network is to train alone, by a rule calibrated on networks that did and did not; then trains a few steps "
            "alone and under each guide (runs diagnose/...), and ranks them by how deep the classes can be read. It does not replace the "
            "training: experiments/guidance/README.md says how often it was right.",
        ),
        (
            Option(
                "guides",
                "",
                "models to try as untrained guides; default: that of the command, or a few for the kind of data",
                value="residual_convnet,vit",
            ),
            Option("steps", "60", "updates under each guide; 0: none are tried"),
            Option("rates", "0", "updates of a learning-rate range test, such as 100; 0: none"),
            Option("out", "", "a JSON file for all values", value="<file>"),
            _RUNS_DIR,
        ),
        settings=ANY,
        examples=(
            "diagnose data=digits model=fcn model.depth=40 model.width=128",
            "diagnose experiment=demo/guided-untrained steps=0",
            "diagnose data=digits model=fcn steps=0 rates=100",
        ),
    ),
    "list": Command(
        "listing",
        "list experiments, methods, objectives, models, data, cases or runs",
        (
            "experiments | methods | objectives | similarities | models | data | optimizers | hardware | loggers | sweeps | "
            "cases | tables",
            "runs [<name>] [state=failed ...]",
        ),
        (
            "<name>: only runs at or below this name, such as demo. A run's digits are as many as tell it apart; every command takes them.",
        ),
        (
            _RUNS_DIR,
            *_FILTERS,
            Option(
                "sort",
                "",
                "runs: by name | seed | state | value | time | progress | started | finished; the largest first: -value",
            ),
            Option("last", "", "runs: this many, the latest first", value="20"),
            Flag("--watch", "runs: until interrupted, as they change"),
        ),
        names=(1, 2),
        needs="what to list",
    ),
    "remove": Command(
        "remove",
        "remove runs that no table needs, or their checkpoints; asks first",
        ("[<name>] [--all] [--archive | --checkpoints] [--dry] [--yes] [state=failed ...]",),
        (
            "<name>: runs at or below this name, such as demo. Kept whatever is chosen: runs of the names "
            "that the arms of a table under experiments/ have, the runs that these or any other remaining run"
            " need, and runs being worked on.",
        ),
        (
            Flag("--all", "all runs that no table needs"),
            Flag("--archive", "only attempts that rerun=true has archived"),
            Flag("--checkpoints", "only the checkpoints of complete runs; the runs stay"),
            _DRY,
            Flag("--yes", "do not ask"),
            _RUNS_DIR,
            *_FILTERS,
        ),
        names=(0, 1),
    ),
}

RENAMED = {"prune": "remove"}
"""Former names of commands."""
