"""The commands that make runs or say what would be made: what each takes, and its help."""

from __future__ import annotations

from tutelage.cli.command_words import CODE, RUNS_DIR
from tutelage.cli.reader import ANY, Command, Example, Flag, Option

_SWEEP = ("--multirun",)
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

WORK: dict[str, Command] = {
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
            Example("arms=plain,guided", "of a sweep over a table: these arms of it"),
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
            CODE,
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
            "training: experiments/guidance/notes/diagnose.md says how often it was right.",
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
            RUNS_DIR,
        ),
        settings=ANY,
        examples=(
            "diagnose data=digits model=fcn model.depth=40 model.width=128",
            "diagnose experiment=demo/guided-untrained steps=0",
            "diagnose data=digits model=fcn steps=0 rates=100",
        ),
    ),
}
