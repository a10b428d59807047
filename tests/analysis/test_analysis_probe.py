"""What features are worth: against scikit-learn's classifiers, and as a command on a self-supervised run."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from small_runs import METHODS
from tutelage.analysis.probe import accuracy, linear, neighbours
from tutelage.cli.main import main
from tutelage.errors import UserError
from tutelage.runs.records import read_json


def blobs(n=90, seed=0):
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % 3
    centres = torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1]])
    return centres[targets] + 0.6 * torch.randn(n, 4, generator=draw), targets


def test_the_linear_probe_is_logistic_regression():
    train, test = blobs(), blobs(seed=1)
    ours = linear(train, classes=3, penalty=0.01)
    theirs = LogisticRegression(C=1 / (0.01 * len(train[0])), tol=1e-8, max_iter=1000)
    theirs.fit(train[0].double().numpy(), train[1].numpy())
    probabilities = (torch.cat([test[0], torch.ones(90, 1)], dim=1).double() @ ours).softmax(dim=1)
    expected = torch.from_numpy(theirs.predict_proba(test[0].double().numpy()))
    torch.testing.assert_close(probabilities, expected, atol=1e-3, rtol=0)
    assert accuracy(ours, test) == pytest.approx(theirs.score(test[0].numpy(), test[1].numpy()))
    assert torch.equal(ours, linear(train, classes=3, penalty=0.01))


def test_neighbours_vote_as_a_loop_over_them_does():
    (known, classes), (asked, _) = blobs(), blobs(30, seed=1)
    found = neighbours((known, classes), asked, classes=3, count=5, temperature=0.1)
    for row, answer in zip(asked, found, strict=True):
        cosines = [float(row @ k / (row.norm() * k.norm())) for k in known]
        nearest = sorted(range(len(known)), key=lambda i: -cosines[i])[:5]
        votes = [0.0] * 3
        for i in nearest:
            votes[int(classes[i])] += torch.tensor(cosines[i] / 0.1).exp().item()
        assert int(answer) == max(range(3), key=votes.__getitem__)
    assert torch.equal(
        found, neighbours((5 * known, classes), 0.1 * asked, classes=3, count=5, temperature=0.1)
    )


def test_one_near_neighbour_outvotes_two_that_are_farther():
    known = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]]), torch.tensor([0, 1, 1])
    found = [
        neighbours(known, torch.tensor([[2.0, 0.0]]), classes=2, temperature=t).tolist() for t in (0.07, 10.0)
    ]
    assert found == [[0], [1]]


def test_the_command_probes_runs_and_says_what_it_cannot(command, tmp_path, capsys):
    run = command("method=self_supervised", *METHODS["self_supervised"], "name=ssl")
    out = tmp_path / "out"
    assert main(["analyse", "probe", str(run.path), f"out={out}", f"runs_dir={tmp_path}/runs"]) == 0
    said = capsys.readouterr().out
    assert "linear probe" in said and "20 nearest neighbours" in said
    (row,) = csv.DictReader((out / "probe.csv").open())
    assert 0.2 < float(row["linear"]) <= 1 and 0.2 < float(row["neighbours"]) <= 1
    assert (out / "probe.png").is_file()


def test_images_without_classes_train_a_start_that_other_images_judge(command, tmp_path, capsys):
    draw = np.random.default_rng(0)
    for number in range(90):
        side = 100 * (number % 2) + draw.integers(0, 99, (8, 8, 3), dtype=np.uint8)
        for place in (f"flat/{number}.png", f"known/{'ab'[number % 2]}/{number}.png"):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(side.astype(np.uint8)).save(tmp_path / place)
    words = ["data=image_folder", f"data.root={tmp_path}/flat", "data.batch_size=16"]
    with pytest.raises(
        UserError, match="these data have no classes, and method Supervised learns from classes"
    ):
        command("method=supervised", *words)
    run = command("method=self_supervised", *words, "name=ssl")
    probing = ["analyse", "probe", str(run.path), f"out={tmp_path}/out", f"runs_dir={tmp_path}/runs"]
    assert main(probing) == 2 and "got a task of no targets" in capsys.readouterr().err
    assert main([*probing, f"data.root={tmp_path}/known"]) == 0
    assert "linear probe" in capsys.readouterr().out
    known = [
        *words,
        f"data.root={tmp_path}/known",
        "data.per_class=8",
        "method=semi_supervised",
        "method.objectives.consistency.ratio=2",
        "+data@method.unlabelled=image_folder",
    ]
    both = command(*known, f"method.unlabelled.root={tmp_path}/flat", "method.unlabelled.batch_size=16")
    seen = read_json(both.path / "setup.json")["method"]["objectives"]["consistency"]["unlabelled"]
    with np.load(both.path / "splits.npz") as splits:  # every image lies in both folders
        judged = len(splits["validation"]) + len(splits["test"])
    assert seen["left_out"] == judged and seen["count"] == 90 - judged
