"""Where alignment chooses: which rows, patches and pairs, which of two roads, and what at the bound of each choice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tutelage.alignment import comparisons, gram, procrustes, products, token_cka
from tutelage.alignment import ridge as ridge_regression
from tutelage.alignment.alignment import encode_features
from tutelage.alignment.comparison import Comparison
from tutelage.alignment.comparisons import Centred, chance
from tutelage.alignment.feature_rows import on_cpu, per_patch, per_sample, per_token
from tutelage.alignment.guides import guide_input_like
from tutelage.alignment.pairing import Pair, Pairing, even_index, table
from tutelage.alignment.rules import Calendar, ClassHierarchy, OrientedGradients
from tutelage.alignment.similarity import CKA, Ridge, TokenCKA, cka, rsa
from tutelage.alignment.taps import Layer, probe
from tutelage.errors import UserError
from tutelage.tasks import Batch


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- rows


def test_rows_of_samples_keep_the_memorys_order_and_leave_padding_out():
    x = random(2, 3, 4, 5)
    assert torch.equal(per_sample(x), x.flatten(1))
    last = x.contiguous(memory_format=torch.channels_last)
    found = per_sample(last)
    assert torch.equal(found, x.permute(0, 2, 3, 1).flatten(1)) and found.data_ptr() == last.data_ptr()
    assert torch.equal(per_sample(random(2, 3, 4)), random(2, 3, 4).flatten(1))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    sequence, convolved, flat = random(2, 3, 4), random(2, 4, 3), random(2, 3)
    assert torch.equal(per_sample(sequence, mask), (sequence * mask[:, :, None]).flatten(1))
    assert torch.equal(per_sample(convolved, mask), (convolved * mask[:, None, :]).flatten(1))
    heads = random(2, 5, 4, 3)
    assert torch.equal(per_sample(heads, mask), (heads * mask[:, None, None, :]).flatten(1))
    assert torch.equal(per_sample(flat, mask), flat)
    with pytest.raises(
        UserError, match=r"the mask has 3 positions, which is no axis of the activation \(2, 4, 5\)"
    ):
        per_sample(random(2, 4, 5), mask)


def test_rows_of_tokens_and_patches_are_those_of_loops():
    x = random(2, 3, 4)
    assert torch.equal(per_token(x), torch.stack([x[i, j] for i in range(2) for j in range(3)]))
    with pytest.raises(UserError, match=r"needs activations \(n, length, width\), got \(2, 3\)"):
        per_token(random(2, 3))
    x = random(2, 3, 4, 6)
    rows = [
        x[i, :, 2 * a : 2 * a + 2, 3 * b : 3 * b + 3].flatten()
        for i in (0, 1)
        for a in (0, 1)
        for b in (0, 1)
    ]
    assert torch.equal(per_patch(x, 2), torch.stack(rows))
    assert on_cpu(torch.zeros(1)) and not on_cpu(torch.zeros(1, device="meta"))


# --- what is compared


def layer(name, *shape, kind="conv"):
    return Layer(name, kind, shape)


def compared(guide, network, **options):
    return Comparison(
        [Pair(layer("g", *guide), layer("n", *network))], [layer("n", *network)], CKA(), **options
    )


@pytest.mark.parametrize(
    ("guide", "network", "options", "says"),
    [
        ((5, 4), (5, 7), {"per_token": True}, ""),
        ((5,), (5,), {"per_token": True}, "two sequences of one length"),
        ((5, 4), (6, 4), {"per_token": True}, r"'g' is \(5, 4\), the network's 'n' \(6, 4\)"),
        ((3, 4, 6), (2, 8, 2), {"patches": 2}, ""),
        ((3, 4, 6), (2, 8, 3), {"patches": 2}, r"cut into 2 x 2: the layer 'n' is \(2, 8, 3\)"),
        ((3, 5, 6), (2, 8, 2), {"patches": 2}, r"the layer 'g' is \(3, 5, 6\)"),
        ((4, 6), (2, 8, 2), {"patches": 2}, r"the layer 'g' is \(4, 6\)"),
    ],
)
def test_layers_that_cannot_be_compared_row_by_row_are_told(guide, network, options, says):
    if not says:
        compared(guide, network, **options)
        return
    with pytest.raises(UserError, match=says):
        compared(guide, network, **options)


@pytest.mark.parametrize(
    ("asked", "ranks", "picked"), [(14, 1, 14), (15, 1, None), (16, 1, None), (15, 2, 7), (None, 1, None)]
)
def test_a_draw_of_tokens_is_shared_by_the_ranks_and_none_where_all_are_wanted(
    monkeypatch, asked, ranks, picked
):
    monkeypatch.setattr("tutelage.alignment.comparison.world_size", lambda: ranks)
    one = compared((5, 4), (5, 7), per_token=True, tokens_per_step=asked)
    one.start(None)
    one.encode("g", random(3, 5, 4))
    index, keep = one._picked
    assert keep is None and (
        index is None if picked is None else len(index) == picked == len(set(index.tolist()))
    )


def test_scores_return_to_the_order_of_pairs_and_the_shared_layer_is_the_last_paired_but_the_output():
    layers = [layer(name, 3) for name in "abcd"]
    guides = [layer(name, 4) for name in "xyz"]

    def made(*pairs):
        return Comparison(
            [Pair(guides["xyz".index(g)], layers["abcd".index(n)]) for g, n in pairs], layers, CKA()
        )

    assert [made(*pairs).shared_layer for pairs in (["xa", "yc", "zb"], ["xa", "zd"], ["xd"], ["xb", "zd", "ya"])] == [
        "c", "a", "d", "b",
    ]  # fmt: skip
    one = made("xb", "ya", "zb")
    activations = {name: random(9, 3, seed=k) for k, name in enumerate("abcd")}
    given = {name: random(9, 4, seed=10 + k) for k, name in enumerate("xyz")}
    one.start(None)
    for name, features in given.items():
        one.encode(name, features)
    wanted = [CKA()(activations[n], given[g]) for g, n in ("xb", "ya", "zb")]
    torch.testing.assert_close(one.scores(activations), torch.stack(wanted))


def test_a_feature_that_a_guide_does_not_return_is_named():
    one = compared((5, 4), (5, 7))
    one.start(None)
    for given, shown in (({}, "none"), ({"a": random(4, 3), "b": random(4, 3)}, "a, b")):
        with pytest.raises(UserError, match=f"the guide returned no feature 'g', only {shown}$"):
            encode_features(one, given)


# --- comparisons of the analysis


def of(x):
    return Centred.of_features(torch.as_tensor(x, dtype=torch.float64))


def test_a_comparison_at_the_fewest_samples_and_without_variation():
    g = np.random.default_rng(0)
    Centred.of_features(torch.ones(3, 2))
    five, four, three = (of(g.normal(size=(n, 2))) for n in (5, 4, 3))
    assert 0 <= comparisons.mutual_neighbours(five, five, k=4) <= 1
    with pytest.raises(UserError, match="5 nearest neighbours need more than 5 samples, got 5"):
        comparisons.mutual_neighbours(five, five, k=5)
    assert comparisons.rbf_cka(four, four) == pytest.approx(1)
    with pytest.raises(UserError, match="at least 4 samples, got 3"):
        comparisons.rbf_cka(three, three)
    still = of(np.ones((5, 3)))
    for measure in (comparisons.procrustes, comparisons.svcca, comparisons.pwcca, comparisons.rbf_cka):
        assert all(math.isnan(measure(*pair)) for pair in ((five, still), (still, five), (still, still)))
    assert math.isnan(comparisons.regression(five, still)) and comparisons.regression(still, five) == 0
    most = np.zeros((8, 2))
    most[0] = 1  # of the samples most coincide: their median distance is 0
    assert math.isnan(comparisons.rbf_cka(of(most), of(g.normal(size=(8, 2)))))


def test_a_kernel_is_as_wide_as_asked():
    x, y = (np.random.default_rng(k).normal(size=(12, 3)) for k in (0, 1))
    kernels = []
    for rows in (x, y):
        squares = np.array([[np.sum((a - b) ** 2) for b in rows] for a in rows])
        middle = np.sort(squares[~np.eye(12, dtype=bool)])[(12 * 11 - 1) // 2]
        kernels.append(Centred.of_gram(torch.tensor(np.exp(-squares / (2 * 0.7**2 * middle)))))
    u, v = (comparisons._u_centred(kernel.gram) for kernel in kernels)
    expected = float((u * v).sum() / (u.norm() * v.norm()))
    assert comparisons.rbf_cka(of(x), of(y), width=0.7) == pytest.approx(expected)


def test_a_share_of_the_variance_that_is_reached_exactly_needs_no_further_direction():
    x = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)  # two directions of equal size
    assert [comparisons._leading(of(x), share).shape[1] for share in (0.4, 0.5, 0.51, 1.0)] == [1, 1, 2, 2]


def test_chance_is_the_mean_and_the_largest_over_orders():
    x, y = (of(np.random.default_rng(k).normal(size=(6, 2))) for k in (0, 1))
    generator = torch.Generator().manual_seed(4)
    values = [comparisons.procrustes(x, y.permuted(torch.randperm(6, generator=generator))) for _ in range(5)]
    assert chance(comparisons.procrustes, x, y, permutations=5, seed=4) == pytest.approx(
        (np.mean(values), max(values))
    )


# --- two roads to a Gram matrix


def test_a_long_product_is_split_as_its_size_and_the_threads_ask(monkeypatch):
    seen = []
    monkeypatch.setattr(products, "_has_onednn", lambda: False)
    product = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: seen.append(tuple(a.shape)) or product(a, b))
    for shape, wanted in (
        ((1, 127, 2048), []),
        ((1, 128, 2047), []),
        ((2, 128, 2048), []),
        ((1, 130, 2048), [(1, 32, 2048), (1, 33, 2048), (1, 32, 2048), (1, 33, 2048)]),
    ):
        x = random(*shape)
        torch.testing.assert_close(products.gram(x), x @ x.mT, rtol=1e-5, atol=1e-3)
        assert seen == wanted
    for threads, parts in ((2, 2), (3, 1), (12, 4)):  # of 2,048 columns
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        seen.clear()
        x = random(1, 128, 2048)
        torch.testing.assert_close(products.gram(x), x @ x.mT, rtol=1e-5, atol=1e-3)
        assert seen[0] == (parts, 32, 2048 // parts)


@pytest.mark.skipif(not products._has_onednn(), reason="PyTorch without oneDNN, as on a Mac")
def test_large_products_go_through_onednn_unless_it_is_off_or_there_are_many_threads(monkeypatch):
    seen, product = [], products._onednn
    monkeypatch.setattr(products, "_onednn", lambda a, b: seen.append((*a.shape, len(b))) or product(a, b))
    for shape, wanted in (
        ((1, 64, 511), []),
        ((1, 64, 512), [(64, 512, 64)]),
        ((1, 128, 127), []),
        ((1, 128, 128), [(128, 128, 128)]),
        ((1, 255, 1024), [(255, 1024, 255)]),
        ((1, 256, 1023), [(256, 1023, 256)]),
        ((1, 258, 1024), [(64, 1024, 64), (65, 1024, 129), (64, 1024, 193), (65, 1024, 258)]),
        ((2, 128, 128), []),
    ):
        x = random(*shape)
        slow = torch.from_numpy(np.einsum("kid,kjd->kij", x.double(), x.double())).float()
        torch.testing.assert_close(products.gram(x), slow, rtol=1e-5, atol=1e-3)
        assert seen == wanted
        seen.clear()
    x, double = random(1, 128, 128), random(1, 128, 128, dtype=torch.float64)
    torch.testing.assert_close(products.gram(double), double @ double.mT)
    with monkeypatch.context() as otherwise:
        otherwise.setattr(torch.backends.mkldnn, "enabled", False)
        assert torch.equal(products.gram(x), x @ x.mT)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert torch.equal(products.gram(x), x @ x.mT) and not seen


@pytest.mark.parametrize("kind", ["cka", "unbiased_cka", "rsa"])
def test_value_and_gradient_are_the_same_without_onednn_but_for_the_last_bits(monkeypatch, kind):
    guide, found = random(130, 50, seed=1), []
    for enabled in (True, False):
        x = random(130, 140).requires_grad_()
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", enabled)
        reference = gram.embed(guide.unsqueeze(0), gram.Form(kind)).unit[0]
        score = gram.GramScores.apply(gram.Form(kind), [[reference]], [None], x)
        score.sum().backward()
        found.append((score.detach(), x.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("width", "parts"),
    [(1024, 1), (2047, 1), (2048, 2), (3072, 2), (4096, 4), (6144, 4), (65_536, 64), (131_072, 64)],
)
def test_on_a_device_columns_are_summed_in_parts_of_a_thousand_or_more(monkeypatch, width, parts):
    monkeypatch.setattr(products, "on_cpu", lambda _: False)
    seen = []
    split = torch.Tensor.unflatten
    monkeypatch.setattr(
        torch.Tensor, "unflatten", lambda x, axis, sizes: seen.append(sizes) or split(x, axis, sizes)
    )
    x = random(1, 3, width)
    torch.testing.assert_close(products.gram(x), x @ x.mT, rtol=1e-5, atol=1e-2)
    assert seen == [(parts, width // parts)]


def test_standardised_features_have_rows_of_mean_squared_length_1_and_rounding_is_none():
    x = 3 * random(1, 6, 4, dtype=torch.float64) + 7
    found, scale = gram.standardise(x)
    apart = x[0] - x[0].mean(0)
    assert float(scale) == pytest.approx(math.sqrt(6 / float(apart.square().sum())))
    torch.testing.assert_close(found[0], apart * scale[0])
    flat = torch.full((1, 50, 7), 1000.0)
    flat[0, ::2, 0] += (
        torch.finfo(torch.float32).eps * 1000
    )  # the last bit, which a mean so large leaves to rounding
    for still in (flat, torch.zeros(1, 5, 3)):
        found, scale = gram.standardise(still)
        assert not found.any() and float(scale) == 0
        assert not gram.embed(still, gram.Form("cka")).unit.any()
    flat[0, ::2, 0] += 1
    assert float(gram.standardise(flat)[1]) > 0


@pytest.mark.parametrize(
    ("case", "plain"),
    [("ordinary", True), ("two", False), ("device", False), ("tiny", False), ("huge", False), ("at the largest", False),
     ("far", False), ("at the farthest", False), ("nearer", True)],
)  # fmt: skip
def test_features_are_centred_first_unless_their_values_show_that_it_makes_no_difference(
    monkeypatch, case, plain
):
    signs = torch.tensor([1.0, -1, 1, -1])[:, None]
    x = {
        "tiny": signs * 5e-7,
        "huge": signs * 2e6,
        "at the largest": signs.double() * 1e6,  # a squared length of 1e12
        "far": torch.cat([torch.ones(4, 40), signs], 1),
        "at the farthest": torch.cat(
            [torch.ones(4, 31), signs], 1
        ),  # a squared length of 32, of which the spread is 1
        "nearer": torch.cat([torch.ones(4, 30), signs], 1),
    }.get(case, random(6, 4))[None]
    if case == "two":
        x = torch.cat([x, 2 * x])
    if case == "device":
        monkeypatch.setattr(gram, "on_cpu", lambda _: False)
    found = gram.embed(x, gram.Form("cka"))
    assert isinstance(found.scale, float) is plain
    rows = x.double() - x.double().mean(1, keepdim=True)
    wanted = rows @ rows.mT
    torch.testing.assert_close(
        found.unit.double(), wanted / wanted.norm(dim=(1, 2), keepdim=True), atol=1e-5, rtol=0
    )


def test_cosines_of_directions_that_are_none_or_all_the_same_are_nothing():
    eps = torch.finfo(torch.float32).eps
    x = torch.tensor(
        [[[1.0, 0.0], [0.0, 2 * eps], [3 * eps, 0.0], [0.0, 1.0]]]
    )  # halved: a length of eps is none
    assert (gram.embed(x, gram.Form("rsa")).inverse_lengths[0, :, 0] > 0).tolist() == [
        True,
        False,
        True,
        True,
    ]
    same = (random(1, 1, 33) * torch.linspace(0.3, 7, 64)[None, :, None]).contiguous()
    for kind in ("rsa", "rsa_whole"):
        assert not gram.embed(same, gram.Form(kind)).unit.any()
    assert float(rsa(same[0], random(64, 5))) == 0


def test_rsa_over_the_whole_matrix_is_the_correlation_of_all_cosines():
    x, y = random(7, 5, dtype=torch.float64), random(7, 3, seed=1, dtype=torch.float64)
    cosines = [torch.stack([torch.cosine_similarity(a, b, dim=0) for a in z for b in z]) for z in (x, y)]
    assert float(rsa(x, y, whole=True)) == pytest.approx(float(torch.corrcoef(torch.stack(cosines))[0, 1]))


# --- what a guide sees


def test_what_a_guide_sees_in_place_of_the_inputs():
    tokens = torch.tensor([[0, 3, 1], [2, 0, 3]]).repeat(400, 1)
    for kind in ("gaussian", "released_noise"):
        assert set(guide_input_like(tokens, kind).unique().tolist()) == {0, 1, 2, 3}
    images = torch.zeros(2, 3, 4, 5)
    torch.manual_seed(5)
    a, b = torch.randn_like(images), torch.randn_like(images)
    for kind, wanted in (("gaussian", a), ("released_noise", (a + b / 10).clamp(0, 1)), ("batch", images)):
        torch.manual_seed(5)
        torch.testing.assert_close(guide_input_like(images, kind), wanted)


# --- pairs


def test_even_indices_are_rounded_fractions_of_the_way():
    for guides, networks in itertools.product((1, 2, 3, 5, 8), (1, 2, 4, 7)):
        found = [even_index(i, guides, networks) for i in range(guides)]
        wanted = [0 if guides == 1 else round(i * (networks - 1) / (guides - 1)) for i in range(guides)]
        assert found == wanted


GUIDE = [layer("g0", 3, kind="conv"), layer("g1", 4, kind="conv"), layer("g2", 5, kind="linear")]
NETWORK = [layer("n0", 3), layer("n1", 4, kind="MaxPool2d"), layer("n2", 4), layer("n3", 2, kind="linear")]


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, "g0-n0 g1-n2 g2-n3"),
        ({"exclude_output": True}, "g0-n0 g1-n2"),
        ({"strategy": "first", "k": 1}, "g0-n0"),
        ({"strategy": "first", "k": 3}, "g0-n0 g1-n2 g2-n3"),
        ({"strategy": "last", "k": 1}, "g2-n3"),
        ({"strategy": "last", "k": 2}, "g1-n2 g2-n3"),
        ({"strategy": "last", "k": 2, "positions": "spread"}, "g1-n0 g2-n3"),
        ({"strategy": "type", "layer_type": "linear"}, "g2-n3"),
        ({"strategy": "type", "layer_type": "linear", "positions": "spread"}, "g2-n0"),
        ({"strategy": "one_to_many"}, "g0-n0 g1-n2 g2-n3"),
        ({"kinds": ["MaxPool2d", "conv", "linear"]}, "g0-n0 g1-n2 g2-n3"),
        ({"kinds": ["conv"], "many_to_one": "last"}, "g0-n0 g1-n2"),
        ({"strategy": "explicit", "pairs": [["g2", "n1"], ["g0", "n1"]]}, "g2-n1 g0-n1"),
        ({"strategy": "explicit", "pairs": [["g2", "n1"], ["g0", "n1"]], "many_to_one": "last"}, "g0-n1"),
    ],
)
def test_who_guides_whom(options, pairs):
    assert " ".join(f"{g.name}-{n.name}" for g, n in Pairing(**options)(GUIDE, NETWORK)) == pairs


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategy": "first", "k": 0}, "must be from 1 to 3, the guide's layers, got 0"),
        ({"strategy": "last", "k": 4}, "must be from 1 to 3, the guide's layers, got 4"),
        ({"strategy": "type", "layer_type": "lstm"}, "the guide has no layer of type 'lstm'"),
        ({"kinds": ["conf"]}, "no layer is of the kind 'conf'; did you mean 'conv'"),
        ({"strategy": "explicit", "pairs": []}, "needs at least one pair"),
        ({"strategy": "explicit", "pairs": ["g0"]}, "a pair is .*, got 'g0'"),
        ({"strategy": "explicit", "pairs": [["g0", "n0", "n1"]]}, "a pair is "),
        ({"strategy": "explicit", "pairs": [["g9", "n0"]]}, "the guide has no layer 'g9'"),
        (
            {"kinds": ["linear"], "exclude_output": True},
            "the guide has no layer to pair beside its output: expected one of linear, found conv, linear",
        ),
    ],
)
def test_pairs_that_cannot_be_are_told(options, says):
    with pytest.raises(UserError, match=says):
        Pairing(**options)(GUIDE, NETWORK)


@pytest.mark.parametrize(
    "options",
    [{"strategy": "first"}, {"strategy": "type"}, {"strategy": "explicit"}, {"k": 2}, {"layer_type": "conv"}, {"pairs": [["a", "b"]]},
     {"strategy": "explicit", "pairs": [["a", "b"]], "exclude_output": True}, {"strategy": "one_to_many", "positions": "spread"},
     {"strategy": "explicit", "pairs": [["a", "b"]], "positions": "spread"}, {"strategy": "evn"}, {"positions": "kept"},
     {"many_to_one": "first"}],
)  # fmt: skip
def test_arguments_of_a_pairing_that_do_not_fit_each_other(options):
    with pytest.raises(UserError):
        Pairing(**options)


def test_the_table_of_pairs_is_aligned():
    assert table(Pairing()(GUIDE[:2], [layer("a name", 3, 8, 8), layer("n", 4)])).splitlines() == [
        "#  guide layer  kind  shape  network layer  kind  shape",
        "1  g0           conv  3      a name         conv  3x8x8",
        "2  g1           conv  4      n              conv  4",
    ]


# --- ridge


def test_a_sparse_projection_is_the_gaps_and_signs_that_its_seed_draws(monkeypatch):
    monkeypatch.setattr(ridge_regression, "_PROJECTIONS", {})
    width, size, seed = 13, 6, 3
    found, back = ridge_regression.projection(width, size, seed=seed, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + width)
    filled = size * width / math.sqrt(width)
    gaps = torch.empty(int(filled + 8 * math.sqrt(filled) + 8), dtype=torch.int64)
    place, wanted, cells = -1, torch.zeros(size, width), []
    for gap in gaps.geometric_(1 / math.sqrt(width), generator=generator).tolist():
        place += gap
        cells += [place] if place < size * width else []
    for cell, sign in zip(cells, torch.randint(2, (len(cells),), generator=generator).tolist(), strict=True):
        wanted[cell // width, cell % width] = (1 if sign else -1) * math.sqrt(math.sqrt(width) / size)
    torch.testing.assert_close(found.to_dense(), wanted)
    assert torch.equal(back.to_dense(), found.to_dense().T)
    again, _ = ridge_regression.projection(width, size, seed=seed, device=torch.device("cpu"))
    assert again is found


def test_ridge_projects_what_is_wider_alone_and_centres_by_the_first_half():
    x = 2 * random(9, 6) + 3
    found = ridge_regression.prepare(x, size=6, seed=0)
    fit = x[:4]
    torch.testing.assert_close(found, (x - fit.mean(0)) / (fit - fit.mean(0)).square().mean().sqrt())
    assert ridge_regression.prepare(x, size=5, seed=0).shape == (9, 5)
    assert not ridge_regression.prepare(torch.full((6, 2), 2.5), size=6, seed=0).any()


@pytest.mark.parametrize(
    ("width", "penalty", "precise"), [(4, 1.0, False), (4, 0.9, True), (5, 10.0, False), (7, 0.5, True)]
)
def test_ridge_is_solved_in_its_fewest_unknowns_and_as_precisely_as_the_penalty_needs(
    monkeypatch, width, penalty, precise
):
    seen = []
    solve = ridge_regression._solve
    monkeypatch.setattr(ridge_regression, "_solve", lambda *args: seen.append(args[0]) or solve(*args))
    x, y = random(10, width), random(10, 3, seed=1)
    found = ridge_regression.score(x, y, penalty=penalty)
    fit, outcome = x[:5].double(), y[:5].double()
    weights = (
        torch.linalg.inv(fit.T @ fit + penalty * torch.eye(width, dtype=torch.float64)) @ fit.T @ outcome
    )
    wanted = torch.cosine_similarity(x[5:].double() @ weights, y[5:].double()).mean()
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-5)
    square = fit.T @ fit if width <= 5 else fit @ fit.T
    torch.testing.assert_close(seen[0].double(), square, rtol=1e-5, atol=1e-5)
    assert seen[0].dtype is (torch.float64 if precise else torch.float32)


# --- others


def test_the_bounds_of_the_rules():
    OrientedGradients(cell=1, bins=2, clip=1e-9)
    for options in ({"cell": 0}, {"bins": 1}, {"clip": 0}):
        with pytest.raises(UserError, match="cell must be at least 1, bins at least 2 and clip above 0"):
            OrientedGradients(**options)
    rule = OrientedGradients(cell=3)
    assert rule.features(Batch(torch.zeros(1, 2, 6, 7), None, None))["cells"].shape == (1, 9, 2, 2)
    for shape in ((1, 2, 5, 7), (1, 2, 7, 5), (2, 6, 7)):
        with pytest.raises(UserError, match="of at least 6 pixels a side"):
            rule.features(Batch(torch.zeros(shape), None, None))
    turns = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    assert Calendar(tables={"calendar": turns}, input_shape=(0, 1), harmonics=1).calendar.shape == (1, 2, 2)
    with pytest.raises(UserError, match="harmonics must be at least 1, got 0"):
        Calendar(tables={"calendar": turns}, input_shape=(0, 1), harmonics=0)
    with pytest.raises(UserError, match="the data have no class 'cet'; did you mean 'cat'"):
        ClassHierarchy(tree={"animal": {"pet": ["cet"]}}, class_names=["cat", "dog"])


def test_cka_takes_the_road_that_fits_its_sizes(monkeypatch):
    roads = []
    for one in (CKA, TokenCKA):
        forward = one.forward
        monkeypatch.setattr(
            one, "forward", lambda self, *x, forward=forward: roads.append(type(self)) or forward(self, *x)
        )
    for widths in ((5, 2), (2, 5), (4, 2), (2, 4)):
        cka(random(5, widths[0]), random(5, widths[1], seed=1))
    assert roads == [CKA, CKA, TokenCKA, TokenCKA]


@pytest.mark.parametrize(
    ("case", "plain"),
    [("ordinary", True), ("tiny", False), ("small", True), ("huge", False), ("at the largest", False), ("at the farthest", False),
     ("nearer", True)],
)  # fmt: skip
@pytest.mark.parametrize("masked", [True, False])
def test_tokens_are_scaled_where_their_values_ask_for_it(case, plain, masked):
    signs = torch.tensor([1.0, -1, 1, -1])[:, None].double()
    x = {
        "tiny": signs * 9e-7,  # a mean squared length of 8.1e-13
        "small": signs * 1.1e-6,
        "huge": signs * 2e6,
        "at the largest": signs * 1e6,
        "at the farthest": torch.cat(
            [torch.full((4, 1), 100.0), signs], 1
        ),  # the mean's square is 10,000 times the spread
        "nearer": torch.cat([torch.full((4, 1), 99.0), signs], 1),
    }.get(case, random(6, 4, dtype=torch.float64))
    mask = None
    if masked:
        x = torch.cat([x, torch.full_like(x[:3], 7e8)])
        mask = torch.arange(len(x)) < len(x) - 3
    rows, square = token_cka.encode(x, mask, unbiased=False)
    real = x if mask is None else x[mask]
    apart = real - real.mean(0)
    assert (rows.scale.ndim == 0) is plain and int(rows.count) == len(real)
    scale = 1 if plain else apart.square().sum(1).mean().rsqrt()
    torch.testing.assert_close(rows.values[: len(real)], apart * scale)
    torch.testing.assert_close(rows.lengths[: len(real)], (apart * scale).square().sum(1))
    assert not rows.values[len(real) :].any() and not rows.lengths[len(real) :].any()
    torch.testing.assert_close(square.norm(), ((apart * scale).T @ (apart * scale)).norm())


@pytest.mark.parametrize("width", [4, 5, 6])
@pytest.mark.parametrize("unbiased", [True, False])
def test_the_slope_of_token_cka_at_as_many_features_as_tokens(width, unbiased):
    guide = random(5, 3, seed=1, dtype=torch.float64)
    measure = TokenCKA(unbiased=unbiased)
    assert torch.autograd.gradcheck(
        lambda x: measure(x, guide), random(5, width, dtype=torch.float64).requires_grad_()
    )


def test_what_attention_is_made_of_is_no_layer_wherever_it_stands():
    class Own(torch.nn.MultiheadAttention):
        def __init__(self):
            super().__init__(4, 2, batch_first=True)
            self.inner = torch.nn.Sequential(torch.nn.Linear(4, 4))

        def forward(self, x):
            return self.inner(x), None

    block = torch.nn.Sequential(Own(), torch.nn.ModuleDict())
    block.forward = lambda x: block[0](x)[0]
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), block)
    assert [one.name for one in probe(network, torch.zeros(2, 5, 4))] == ["0", "1.0", "1"]


def test_a_probe_sees_what_is_no_part_of_attention_and_leaves_every_buffer_as_it_was():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
            self.last = torch.nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("nothing", None)

        def forward(self, x):
            self.calls += 1
            return self.last(self.attention(x, x, x)[0])

    network = Net()
    assert [(one.name, one.kind, one.shape) for one in probe(network, torch.zeros(2, 5, 4))] == [
        ("attention", "attention", (5, 4)),
        ("last", "linear", (5, 3)),
    ]
    assert float(network.calls) == 0 and network.nothing is None and network.training


@pytest.mark.parametrize(
    ("similarity", "fewest"),
    [(CKA(), 3), (CKA(unbiased=True), 4), (TokenCKA(), 2), (TokenCKA(unbiased=True), 4), (Ridge(), 4)],
)
def test_a_similarity_needs_its_fewest_rows(similarity, fewest):
    similarity(random(fewest, 3), random(fewest, 2, seed=1))
    with pytest.raises(UserError, match=f"at least {fewest} samples .*, got {fewest - 1}"):
        similarity(random(fewest - 1, 3), random(fewest - 1, 2))
    for network, guide in (((6, 3), (5, 3)), ((6,), (6, 3)), ((6, 3), (6, 3, 1))):
        with pytest.raises(UserError, match="a similarity compares features"):
            similarity(random(*network), random(*guide))


def test_the_settings_of_ridge_at_their_bounds():
    Ridge(penalty=1e-9, projection_size=1)
    for options in ({"penalty": 0}, {"penalty": math.nan}, {"projection_size": 0}):
        with pytest.raises(UserError, match=r"penalty must be above 0|at least 1 column"):
            Ridge(**options)


def test_features_for_procrustes_and_their_bounds():
    x = random(5, 3, dtype=torch.float64) + 4
    rows = x - x.mean(0)
    torch.testing.assert_close(procrustes.centred(x), rows / rows.norm())
    assert not procrustes.centred(torch.full((4, 2), 3.0)).any()
    for shape in ((4, 4), (4, 9), (9, 4)):
        features = random(*shape, dtype=torch.float64)
        found = procrustes.reduced(features)
        assert found.shape == (shape[0], min(shape))
        torch.testing.assert_close(found @ found.T, features @ features.T)
    assert procrustes.reduced(x) is x and procrustes.reduced(x[:3]).data_ptr() == x.data_ptr()
    torch.testing.assert_close(procrustes.gram_of(rows).norm(), torch.ones((), dtype=torch.float64))
    assert not procrustes.gram_of(torch.zeros(3, 2)).any()
    one, zero = procrustes.gram_of(rows), torch.zeros(5, 5, dtype=torch.float64)
    assert [
        float(procrustes.gram_score(*pair)) for pair in ((one, one), (one, zero), (zero, one), (zero, zero))
    ] == [1, 0, 0, 0]
    # of squared singular values below three times the rounding of the largest nothing is kept
    for small, kept in ((1.7e-8, False), (3e-8, True)):
        found = procrustes.nuclear(torch.tensor([1.0, small, 0.0], dtype=torch.float64).diag())
        assert float(found) == pytest.approx(1 + small * kept, abs=1e-9)
    for shape in ((3, 5), (5, 3), (4, 4)):
        product = random(*shape, dtype=torch.float64)
        torch.testing.assert_close(procrustes.nuclear(product), torch.linalg.svdvals(product).sum())
