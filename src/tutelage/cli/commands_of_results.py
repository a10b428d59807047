"""The commands that look at runs, use them or remove them: what each takes, and its help."""

from __future__ import annotations

from tutelage.analysis.analyses import ANALYSES
from tutelage.cli.command_words import CODE, DEVICES, RUNS_DIR
from tutelage.cli.reader import ANY, Command, Example, Flag, Option

_SPLIT = Option("split", "test", "train | validation | test", choices=("train", "validation", "test"))
_DRY = Flag("--dry", "say what would be done, and leave it")
_FILTERS = (
    Option("state", "", "runs: complete | failed | interrupted | running"),
    Option("method", "", "runs: by method, such as guidance"),
    Option("data", "", "runs: by data, such as digits"),
    Option("since", "", "runs: finished on or after this date, 2026-01-31"),
    Option("before", "", "runs: finished before this date"),
    Example("key=value", "runs: with this setting, such as model.width=64, seed=3 or model=fcn"),
)
_SETTINGS_OF_RUNS = (
    "data.", "fit.", "generator", "guide", "hardware.", "method.", "model", "needs.", "optimizer", "scale", "seed=", "source", "teacher",
)  # fmt: skip

RESULTS: dict[str, Command] = {
    "evaluate": Command(
        "evaluate",
        "evaluate a finished run on any data that fit",
        ("<run> [data=<choice>] [data.key=value ...] [split=test] [device=cpu]",),
        (
            "<run> is a folder, or a name with the first digits of an identity (`tutelage list runs`). "
            "Without data= the run's own data are used. The metrics are printed and appended to the run's "
            "evaluations.jsonl; its result is not touched.",
        ),
        (
            _SPLIT,
            Option("device", "cpu", "cpu | gpu | mps", choices=("cpu", "gpu", "mps")),
            DEVICES,
            RUNS_DIR,
            CODE,
        ),
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
            RUNS_DIR,
            CODE,
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
            RUNS_DIR,
            CODE,
        ),
        names=(1, None),
        needs="a run, or a folder of `tutelage export`,",
        settings=("data=", "data."),
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
            RUNS_DIR,
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
            RUNS_DIR,
        ),
        names=(0, 1),
        settings=_SETTINGS_OF_RUNS,
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
                "train | validation | test; for errors, similarity, calibration, quality, explain and robustness",
                choices=("train", "validation", "test"),
                verbs=("errors", "similarity", "calibration", "quality", "explain", "robustness"),
            ),
            Option(
                "samples",
                "",
                "how many samples of the split, evenly spaced: similarity and robustness (1000), explain (64); quality: "
                "how many images of each set (1000)",
                verbs=("similarity", "robustness", "explain", "quality"),
            ),
            Option(
                "layers",
                "weights",
                "similarity: weights (those a pairing counts), all, or names separated by commas",
                verbs=("similarity",),
            ),
            Option(
                "measure",
                "unbiased_cka",
                "similarity: or procrustes, svcca, pwcca, rbf_cka, mutual_neighbours, regression, each pair beside what chance gives",
                verbs=("similarity",),
            ),
            Option(
                "other",
                "",
                "gap: data whose test split they are judged on, too; calibration: data that they should tell from their own; "
                "other.root=... and other settings of theirs",
                value="svhn",
                verbs=("gap", "calibration"),
            ),
            Option(
                "explainers",
                "",
                "explain: saliency, integrated_gradients, grad_cam, occlusion, attention_rollout, kernel_shap, "
                "lime, or all; without it, those that fit of the first five",
                verbs=("explain",),
            ),
            Option(
                "corruptions",
                "all",
                "robustness: all, none, or names with commas (gaussian_noise, motion_blur, fog, jpeg, ...)",
                verbs=("robustness",),
            ),
            Option(
                "attacks",
                "",
                "robustness: all, none, or some of fgsm, pgd, strong; without it all, on images",
                verbs=("robustness",),
            ),
            Option(
                "epsilon",
                "8/255",
                "robustness: the largest change, in pixels from 0 to 1",
                verbs=("robustness",),
            ),
            Option(
                "norm",
                "linf",
                "robustness: or l2",
                choices=("linf", "l2"),
                verbs=("robustness",),
            ),
            Option(
                "steps",
                "20",
                "robustness: of PGD; the strong attack takes five times as many for each of its goals",
                verbs=("robustness",),
            ),
            Option(
                "restarts",
                "1",
                "robustness: random starts of PGD",
                verbs=("robustness",),
            ),
            Option(
                "queries",
                "1000",
                "robustness: of the black-box attack in strong",
                verbs=("robustness",),
            ),
            Option(
                "forms",
                "",
                "int8: static (also without it), dynamic, weights, see `export`",
                value="static,dynamic",
                verbs=("int8",),
            ),
            Option(
                "x",
                "",
                "phases: the setting along the map",
                value="model.width",
                verbs=("phases",),
            ),
            Option(
                "y",
                "",
                "phases: the setting down the map",
                value="model.depth",
                verbs=("phases",),
            ),
            Option("device", "cpu", "cpu | cuda | mps"),
            DEVICES,
            RUNS_DIR,
            CODE,
            Example("data.root=...", "settings of the runs' data"),
        ),
        names=(1, None),
        settings=("data.", "other."),
        verbs={name: one.help for name, one in ANALYSES.items()},
    ),
    "list": Command(
        "listing",
        "list experiments, methods, objectives, models, data, cases or runs",
        (
            "experiments | methods | objectives | similarities | models | data | optimizers | hardware | loggers | sweeps | "
            "cases | tables",
            "runs [<name>] [state=failed ...] [model.width=64 ...]",
        ),
        (
            "<name>: only runs at or below this name, such as demo. A run's digits are as many as tell it apart; every command takes them.",
        ),
        (
            RUNS_DIR,
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
        settings=_SETTINGS_OF_RUNS,
    ),
    "remove": Command(
        "remove",
        "remove runs that no table needs, or their checkpoints; asks first",
        (
            "[<name>] [--all] [--archive | --checkpoints] [--dry] [--yes] [state=failed ...] [model.width=64 ...]",
        ),
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
            RUNS_DIR,
            *_FILTERS,
        ),
        names=(0, 1),
        settings=_SETTINGS_OF_RUNS,
    ),
}
