"""`tutelage scale` as a user types it: predictions, points through the store, sweeps, reports, and every mistake in one message."""

import csv
import json
import subprocess
import sys

import pytest
import yaml

from tutelage.cli.main import main
from tutelage.config.compose import compose
from tutelage.errors import UserError
from tutelage.scaling.energies import predict
from tutelage.scaling.measure_command import points_of
from tutelage.scaling.predict_command import axes_of, built
from tutelage.scaling.scale_request import case_names

QUICK = ["factors=[2,20]", "draws=2", "steps=40", "measurements=4", "test_points=100", "hardware.threads=1"]
EXPECTED = {"three_layer_width": 1, "convolution": 0.75, "convolution_channels": 0.75, "attention": 1.75}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("case", case_names())
def test_every_case_predicts_and_makes_points_with_names_of_their_own(case):
    config = compose([f"scale={case}"], "scale")
    layers, arguments = built(config["predict"])
    assert float(predict(layers, **arguments).exponent) == EXPECTED.get(case, 1)
    points = points_of(config)
    assert {point.experiment for point, _ in points} == {case}
    assert len({point.name for point, _ in points}) == len(points)


def test_predict_writes_winner_exponents_crossovers_and_a_figure(folder, capsys):
    words = ["scale", "predict", "three_layer", "N1=1.4", "N2=2", "patterns=[GP-GP,GP-Sp,Sp-Mag]"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "P* ~ d^(22/15), learned by Sp-Mag" in said
    assert "Sp-Mag meets GP-Sp at N1 = sqrt(N2)*sqrt(d)" in said
    (written,) = (folder / "runs" / "scale" / "predict").iterdir()
    assert [row["pattern"] for row in rows(written / "energies.csv")] == ["Sp-Mag", "GP-Sp", "GP-GP"]
    (winner,) = rows(written / "exponents.csv")
    assert (winner["in N1"], winner["in d"], winner["quantities"]) == (
        "1/3",
        "1/3",
        "M1 ~ d^(7/15), beta2 ~ d^(8/15)",
    )
    stretches = [row for row in rows(written / "crossovers.csv") if row["size"] == "N1"]
    assert [(row["to"], row["cheapest"]) for row in stretches] == [
        ("d^(3/2)", "Sp-Mag"),
        ("(larger)", "GP-Sp"),
    ]
    assert (written / "prediction.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dense:N", "N=1"], "P* ~ d, learned by Sp\n"),
        (["dense:N1", "dense:N2", "N1=1", "N2=1"], "a tie: constants decide"),
        (["convolution:C,S,n", "C=1/2", "S=0.5", "n=0.5"], "P* ~ d^(3/4), learned by Sp"),
        (["attention:L", "L=0.5"], "P* ~ d^(7/4), learned by GFL"),
        (["dense:100"], "P* ~ d^(3/4), learned by GFL"),  # a constant width: a lower bound
        (["dense:N", "N=1", "degree=2", "activation=relu"], "target He_2, N ~ d\nP* ~ d, learned by Sp"),
    ],
)
def test_predict_reads_an_architecture_from_words(folder, capsys, words, said):
    assert main(["scale", "predict", *words, "out=here"]) == 0
    assert said in capsys.readouterr().out
    assert (folder / "here" / "energies.csv").exists()


def test_the_files_are_there_also_for_one_who_reads_only_the_head(folder, monkeypatch):
    def closed(text):
        raise BrokenPipeError

    monkeypatch.setattr(sys.stdout, "write", closed)
    assert main(["scale", "predict", "two_layer"]) == 0
    (written,) = (folder / "runs" / "scale" / "predict").iterdir()
    assert {path.name for path in written.iterdir()} >= {"energies.csv", "exponents.csv", "prediction.png"}


def test_measure_runs_points_once_and_reports_them(folder, capsys):
    words = ["scale", "measure", "two_layer", "inputs=[4,6,8]", *QUICK]
    assert main([*words, "--dry"]) == 0
    assert capsys.readouterr().out.count("missing") == 3
    assert main(words) == 0
    said = capsys.readouterr()
    assert "exponent of P* in d" in said.out
    results = list((folder / "runs" / "scale" / "two_layer").glob("*/result.json"))
    assert len(results) == 3
    before = {path: path.stat().st_mtime_ns for path in results}
    assert main(words) == 0
    assert capsys.readouterr().err.count(", stored: ") == 3
    assert before == {path: path.stat().st_mtime_ns for path in results}
    made = folder / "runs" / "scale" / "two_layer"
    assert {
        "results.json",
        "verdicts.md",
        "verdicts.csv",
        "critical_samples.csv",
        "collapse_two_layer.svg",
    } <= {path.name for path in made.iterdir()}
    assert [point["sizes"]["d"] for point in json.loads((made / "results.json").read_text())] == [4, 6, 8]
    config = yaml.safe_load((results[0].parent / "config.yaml").read_text())
    assert config["name"] == "scale/two_layer"
    assert config["point"]["network"]["class"] == "TwoLayer"
    assert main(["list", "runs", "scale"]) == 0
    assert capsys.readouterr().out.count("complete") == 3
    assert main(["scale", "report", str(made), "out=again"]) == 0
    assert (folder / "again" / "verdicts.csv").read_bytes() == (made / "verdicts.csv").read_bytes()
    assert main(["scale", "report", "two_layer", "inputs=[4,6,9]", *QUICK]) == 0
    said = capsys.readouterr()
    assert "missing" in said.err
    assert "d = 4, N = 4" in said.out


@pytest.mark.parametrize("case", case_names())
def test_every_case_is_known_by_its_name(folder, capsys, case):
    assert main(["scale", "measure", case, "--dry"]) == 0
    assert f"scale/{case}/" in capsys.readouterr().out


def test_measure_samples_an_architecture_from_words(folder, capsys):
    assert main(["scale", "measure", "dense:N1", "dense:3", "N1=1.5", "inputs=[4,5]", *QUICK]) == 0
    assert "d = 4, N1 = 8" in capsys.readouterr().out
    assert len(list((folder / "runs" / "scale" / "described").glob("*/result.json"))) == 2


def test_a_sweep_over_sizes_seeds_and_cases_reuses_what_single_commands_made(folder, capsys):
    assert main(["scale", "measure", "two_layer", "inputs=4", *QUICK]) == 0
    words = [
        "scale",
        "measure",
        "two_layer",
        "two_layer_adam",
        "-m",
        "inputs=4,6",
        "seed=0,1",
        *QUICK,
        "steps=40",
    ]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.err.count(", stored: ") == 1
    assert len(list((folder / "runs" / "scale").glob("*/*/result.json"))) == 8
    written = rows(folder / "runs" / "scale" / "critical_samples.csv")
    assert [(row["experiment"], row["sizes"], row["networks"]) for row in written] == [
        (name, f"d = {d}, N = {d}", "8") for name in ("two_layer", "two_layer_adam") for d in (4, 6)
    ]


def test_a_failing_point_leaves_the_others(folder, capsys):
    words = ["scale", "measure", "-m", "two_layer", "inputs=4", "step_size=0.01,500", *QUICK]
    assert main(words) == 2
    said = capsys.readouterr()
    assert "diverged" in said.err
    assert "1 of 2 jobs failed; the same command tries them again" in said.err
    assert "d = 4, N = 4" in said.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predikt", "two_layer"], "did you mean 'predict'"),
        (["predict"], "needs a case, or layers such as dense:N1"),
        (["predict", "two_layr"], "did you mean 'two_layer'"),
        (["predict", "two_layer", "three_layer"], "takes one case"),
        (["predict", "two_layer", "dense:N"], "cases or layers, not both"),
        (["predict", "two_layer", "-m"], "no option '-m'"),
        (["predict", "dence:N"], "did you mean 'dense'"),
        (["predict", "dense"], "write dense:width"),
        (["predict", "dense:"], "written dense:width"),
        (["predict", "dense:0"], "a name such as N1 or a whole number from 1 on"),
        (["predict", "conv:C,S"], "written convolution:channels,patch_dim,patches"),
        (["predict", "dense:N"], "no exponent given for N"),
        (["predict", "dense:N", "N=fast"], "expected the exponent of a power of d"),
        (["predict", "dense:N", "N=-5"], "no width shrinks with d"),
        (["predict", "dense:N", "N=1", "degree=4"], "cannot express a target of degree 4"),
        (["predict", "two_layer", "activation=swish"], "unknown activation 'swish'"),
        (["predict", "two_layer", "patterns=[Mag]"], "cannot magnetise"),
        (["predict", "two_layer", "x=M"], "no size 'M' to draw along"),
        (["predict", "two_layer", "degre=3"], "did you mean 'predict.degree'"),
        (["measure", "two_layer", "stps=3"], "did you mean 'measure.steps'"),
        (["measure", "two_layer", "--fast"], "no option '--fast'"),
        (["measure", "two_layer", "inputs=[0]"], "inputs must be a positive number"),
        (["measure", "two_layer", "method=adm"], "did you mean 'adam'"),
        (["measure", "two_layer", "draws=many"], "measure.draws must be a whole number, got 'many'"),
        (["measure", "two_layer", "+widht=3"], "no setting 'measure.widht'"),
        (["measure", "two_layer", "mixture={2:1.0}"], "Choose an odd degree"),
        (["measure", "two_layer", "measurements=0"], "measurements must be between 4 and steps"),
        (["measure", "two_layer", "factors=2"], "measure.factors must be a list"),
        (["measure", "two_layer", "factors=[0.1,0.2]"], "measure.factors leave P = 2 alone at d"),
        (["measure", "two_layer", "degree=-1"], "must not be negative"),
        (["measure", "two_layer", "hardware.accelerator=mps"], "cpu, gpu or auto"),
        (["measure", "two_layer", "hardware.accelerator=tpu"], "one of cpu, gpu, mps, auto"),
        (["measure", "two_layer", "hardware.devices=2"], "hardware.devices must be 1"),
        (["measure", "two_layer", "measure._target_=os.system"], "refused"),
        (
            ["measure", "two_layer", "measure._target_=tutelage.scaling.layers.Dense"],
            "no setting 'measure.inputs'",
        ),
        (["measure", "two_layer", "runs_dir=/proc/nowhere"], "runs_dir="),
        (["measure", "two_layer", "seed=0,1"], "add -m"),
        (["measure", "two_layer", "retry=often"], "retry must be a whole number of at least 0, got 'often'"),
        (["measure", "two_layer", "on_failure=stopp"], "did you mean 'stop'?"),
        (
            ["measure", "two_layer", "hardware.threads=0"],
            "hardware.threads must be a whole number of at least 1",
        ),
        (["measure", "two_layer", "runs_dir="], "runs_dir must name a folder"),
        (
            ["measure", "dense:N1", "dense:N2", "dense:N3", "N1=1", "N2=1", "N3=1"],
            "can be predicted but not sampled",
        ),
        (["report", "two_layer"], "nothing of two_layer is stored in runs"),
        (["report", "nowhere"], "no case or folder 'nowhere'"),
        (["report", "./nowhere"], "no results under nowhere"),
    ],
)
def test_a_wrong_word_gets_one_message(folder, capsys, words, says):
    quick = QUICK if words[0] == "measure" and ":" not in words[1] and "factors=2" not in words else []
    assert main(["scale", *words[:2], *quick, *words[2:]]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


def test_results_that_are_none_are_refused(folder, capsys):
    (folder / "results.json").write_text('[{"experiment": "x"}]')
    assert main(["scale", "report", "./results.json"]) == 2
    assert "holds no results of points" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["predict", "three_layer"], ["predict", "dense:N", "N=1"]])
def test_help_and_predict_load_no_torch(tmp_path, words):
    program = (
        f"import sys; from tutelage.cli.main import main; code = main(['scale', *{words!r}]); "
        "sys.exit(code or 3 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["three_layer", "N1=1.4", "N2=2"],
            "Sp-GP is not in the paper's table for this network (arXiv 2512.04165: GP-GP, GP-Sp, Sp-Mag) but follows from its rules.\n"
            "Of the patterns in the table: P* ~ d^(22/15), learned by Sp-Mag (patterns=[GP-GP,GP-Sp,Sp-Mag])\n",
        ),
        (["dense:N1", "dense:N2", "N1=1", "N2=1"], "Sp-GP, Sp-Sp, GFL-Sp are not in the paper's table"),
        (["three_layer", "N1=1.4", "N2=2", "patterns=[GP-GP,GP-Sp,Sp-Mag]"], None),
        (["three_layer", "N1=2", "N2=1"], None),  # GP-Sp wins, as in the table
        (["two_layer"], None),
    ],
)
def test_a_winner_that_the_papers_table_does_not_have_is_said(folder, capsys, words, said):
    assert main(["scale", "predict", *words]) == 0
    shown = capsys.readouterr().out
    assert said in shown if said else "paper's table" not in shown


def test_a_prediction_is_drawn_along_the_sizes_asked_for_and_never_along_d():
    scales = {"d": 1, "N1": 1.4, "N2": 2, "P": 3}
    assert axes_of(scales, {}) == ["N1", "N2"] and axes_of({"d": 1, "P": 2}, {}) == ["P"]
    assert axes_of(scales, {"x": "P"}) == ["P"] and axes_of(scales, {"x": "P", "y": "N1"}) == ["P", "N1"]
    assert axes_of(scales, {"y": "P"}) == ["P", "N1"]
    with pytest.raises(UserError, match="there is no size 'd' to draw along"):
        axes_of(scales, {"x": "d"})
