"""Semi-supervised objectives on real images: what they see, and what they remember, against the papers' algorithms as loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from small_runs import P_SSL, SMALL, C
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError
from tutelage.runs.identity import identify

SEMI = [*SMALL, "method=semi_supervised", "data.batch_size=8", "data.per_class=4", f"{C}.ratio=2.0", "method.ema_decay=0.0",
        "data.augment=null", f"{C}.weak=null", f"{C}.strong={{horizontal_flip: {{}}}}"]  # fmt: skip


def words(tmp_path, *more):
    return [*SEMI, f"runs_dir={tmp_path}", *more]


def made(tmp_path, *more):
    built = build(compose(words(tmp_path, *more)))
    built.method.on_fit_start()
    return built


def steps(built, count=6):
    """Take steps without updates; yield the logits of the labelled batch, weak and strong views, the images' indices, and the term."""
    method = built.method.train()
    objective = method.objectives["consistency"]
    stream = built.data.train_stream(seed=0, device="cpu")
    stream.seek(0, count)
    for number, batch in enumerate(stream):
        with torch.no_grad():
            method.network.head.weight.mul_(1.5)  # more confident from step to step
        taken = method.objectives.take(batch, method.predict, draw=number)
        yield taken.output, *taken.extra["consistency"], objective.stream.index, objective.loss(taken)


def cross_entropies(weak, strong):
    return [float(-strong[i].log_softmax(0)[int(weak[i].argmax())]) for i in range(len(weak))]


def test_flexmatch_is_the_papers_algorithm(tmp_path):
    built = made(tmp_path, f"objective@{C}=flexmatch", f"{C}.threshold=0.5")
    total = len(built.method.objectives["consistency"].stream.source.index)
    latest, masked = {}, []
    for _, weak, strong, index, found in steps(built):
        sigma = [sum(label == c for label in latest.values()) for c in range(10)]
        beta = [s / max(*sigma, total - len(latest)) for s in sigma]
        limits = [b / (2 - b) * 0.5 for b in beta]
        p = weak.softmax(1)
        mask = [float(p[i].max()) >= limits[int(p[i].argmax())] for i in range(len(p))]
        masked += mask
        terms = [ce * on for ce, on in zip(cross_entropies(weak, strong), mask, strict=True)]
        assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
        for i, place in enumerate(index.tolist()):
            if float(p[i].max()) >= 0.5:
                latest[place] = int(p[i].argmax())
    assert latest and any(masked)
    assert built.method.objectives["consistency"].latest.tolist().count(-1) == len(
        built.data.store.images
    ) - len(latest)


def test_freematch_is_the_papers_algorithm(tmp_path):
    built = made(tmp_path, f"objective@{C}=freematch", f"{C}.momentum=0.7", f"{C}.fairness=0.5")
    tau, means, hist, masked = 0.1, torch.full((10,), 0.1), torch.full((10,), 0.1), []
    for _, weak, strong, _, found in steps(built):
        p = weak.softmax(1)
        tau = 0.7 * tau + 0.3 * float(p.amax(1).mean())
        means = 0.7 * means + 0.3 * p.mean(0)
        counts = torch.tensor([float((p.argmax(1) == c).sum()) for c in range(10)])
        hist = 0.7 * hist + 0.3 * counts / len(p)
        limits = means / means.max() * tau
        mask = p.amax(1) >= limits[p.argmax(1)]
        masked += mask.tolist()
        expected = float((torch.tensor(cross_entropies(weak, strong)) * mask).mean())
        if mask.any():
            q = strong[mask].softmax(1)
            own = torch.tensor([float((q.argmax(1) == c).sum()) for c in range(10)]) / len(q)
            first = torch.where(hist > 0, means / hist, 0)
            second = torch.where(own > 0, q.mean(0) / own, 0)
            expected += 0.5 * float((first / first.sum() * (second / second.sum() + 1e-12).log()).sum())
        assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert len(set(masked)) == 2


def test_softmatch_is_the_papers_algorithm(tmp_path):
    built = made(tmp_path, f"objective@{C}=softmatch", f"{C}.momentum=0.7", f"{C}.sigmas=1.0")
    mu, var, mean = 0.1, 1.0, None
    for _, weak, strong, _, found in steps(built):
        p = weak.softmax(1)
        mean = p.mean(0) if mean is None else 0.7 * mean + 0.3 * p.mean(0)
        uniform = p * (0.1 / mean)
        confidence = (uniform / uniform.sum(1, keepdim=True)).amax(1)
        mu = 0.7 * mu + 0.3 * float(confidence.mean())
        var = 0.7 * var + 0.3 * float(confidence.var())
        weights = torch.exp(-((confidence - mu).clamp(max=0) ** 2) / (2 * var))
        expected = (torch.tensor(cross_entropies(weak, strong)) * weights).mean()
        assert float(found) == pytest.approx(float(expected), rel=1e-3)


def test_adamatch_is_relative_to_the_labelled_batch(tmp_path):
    built = made(tmp_path, f"objective@{C}=adamatch", f"{C}.momentum=0.7", f"{C}.threshold=0.95")
    mean = wanted = None
    masked = []
    for labelled, weak, strong, _, found in steps(built):
        p, q = weak.softmax(1), labelled.softmax(1)
        mean = p.mean(0) if mean is None else 0.7 * mean + 0.3 * p.mean(0)
        wanted = q.mean(0) if wanted is None else 0.7 * wanted + 0.3 * q.mean(0)
        raw = p * (wanted + 1e-6) / (mean + 1e-6)  # as classes that are never predicted need it
        aligned = raw / raw.sum(1, keepdim=True)
        mask = aligned.amax(1) >= 0.95 * q.amax(1).mean()
        masked += mask.tolist()
        expected = (F.cross_entropy(strong, aligned.argmax(1), reduction="none") * mask).mean()
        assert float(found) == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    assert len(set(masked)) == 2


def test_unlabelled_images_are_of_the_training_set_alone_and_scaled_as_the_labelled_ones(tmp_path):
    train, rest = (made(tmp_path, f"method.unlabelled={which}") for which in ("train", "rest"))
    data = train.data
    labelled = set(data.splits["train"].tolist())
    held_out = {*data.splits["validation"].tolist(), *data.splits["test"].tolist()}
    all_of_it, others = (
        set(built.method.objectives["consistency"].stream.source.index.tolist()) for built in (train, rest)
    )
    assert len(labelled) == 40 and labelled <= all_of_it and others == all_of_it - labelled
    assert not all_of_it & held_out and len(all_of_it | held_out) == 1797
    stream = train.method.objectives["consistency"].stream
    views = stream.views(0)
    plain = data.store.batch(stream.index, None).inputs
    torch.testing.assert_close(views[0], plain, atol=0.02, rtol=0)
    assert stream.source.images.max() == 255  # digits have 16: strong augmentation knows bytes
    described = train.method.describe()["objectives"]["consistency"]["unlabelled"]
    assert described["of"] == "train" and described["count"] == len(all_of_it)


def test_another_set_is_seen_with_the_scale_of_the_data_and_is_part_of_the_identity(tmp_path):
    (folder,) = (word.partition("=")[2] for word in P_SSL if ".pseudo=" in word)
    other = ["+data@method.unlabelled=pseudo", f"method.unlabelled.root={folder}"]
    built = made(tmp_path, *other, f"{C}.ratio=1.0")
    source = built.method.objectives["consistency"].stream.source
    mean, deviation = (np.array(part) for part in built.data.normalization)
    np.testing.assert_allclose(float(source.scale) * 255, 1 / deviation, rtol=1e-5)
    np.testing.assert_allclose(float(source.shift), -mean / deviation, rtol=1e-5)
    assert identify(compose(words(tmp_path))) != identify(compose(words(tmp_path, *other)))
    with pytest.raises(UserError, match="the set of data itself"):
        made(tmp_path, "+data@method.unlabelled=digits")


def test_a_folder_of_the_same_kind_is_another_set_by_its_own_images(tmp_path):
    for number, name in enumerate(("own", "one", "other")):
        for split in ("train", "test") if name == "own" else ("",):
            for label in ("a", "b"):
                (folder := tmp_path / name / split / label).mkdir(parents=True)
                for i in range(8):
                    Image.new("L", (8, 8), 3 * i + 100 * number).save(folder / f"{label}{split}{i}.png")
    base = ["data=image_folder", f"data.root={tmp_path / 'own'}", "data.image_size=8", "data.channels=1", "data.per_class=3",
            "+data@method.unlabelled=image_folder", "method.unlabelled.channels=1", "method.unlabelled.image_size=8"]  # fmt: skip
    one, other = (
        compose(words(tmp_path, *base, f"method.unlabelled.root={tmp_path / name}"))
        for name in ("one", "other")
    )
    assert identify(one) != identify(other)
    source = build(one).method.objectives["consistency"].stream.source
    assert source.images.max() == 121 and source.images.min() == 100
    with pytest.raises(UserError, match="the set of data itself"):
        build(compose(words(tmp_path, *base, f"method.unlabelled.root={tmp_path / 'own'}")))
    with pytest.raises(UserError, match=r"method\.unlabelled\.root must name existing data"):
        compose(words(tmp_path, *base, f"method.unlabelled.root={tmp_path / 'nowhere'}"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], False),
        ([f"{C}.weak={{horizontal_flip: {{}}}}"], True),
        ([f"{C}.weak={{horizontal_flip: null}}"], False),
        ([f"{C}.weak={{horizontal_flip: {{}}}}", "data.augment={horizontal_flip: {}}"], False),
        ([f"{C}.weak={{horizontal_flip: {{}}}}", f"{C}.weight=0"], False),
    ],
)
def test_labelled_images_without_the_unlabelled_ones_augmentation_are_warned_of(tmp_path, caplog, more, said):
    made(tmp_path, *more)
    assert ("seen as they are" in caplog.text) == said


def test_sequences_have_no_views(tmp_path):
    sequences = [
        "data=parity",
        "model=rnn",
        "model.per_position=false",
        "method=semi_supervised",
        f"runs_dir={tmp_path}",
    ]
    with pytest.raises(UserError, match="needs images with classes"):
        build(compose(sequences))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["data.per_class=null"], "data.per_class=<number>"),
        (["method.unlabelled=trian"], "did you mean 'train'"),
        (["method.unlabelled=null"], "method.unlabelled=train"),
        ([f"{C}.distribution_alignment=uniformly"], "did you mean 'uniform'"),
        (["data.missing=0.2"], "data.missing_in=all"),
    ],
)
def test_what_cannot_be_is_one_message(tmp_path, more, said):
    with pytest.raises(UserError, match=said):
        made(tmp_path, *more)
