"""The energies and exponents of the knowledge that scale analysis rests on (arXiv 2512.04165), out of the rules."""

from fractions import Fraction

import numpy as np
import pytest
import sympy

from tutelage.errors import UserError
from tutelage.scaling import tropical
from tutelage.scaling.energies import crossover, energies, energy_of, predict
from tutelage.scaling.layers import Attention, Convolution, Dense, has_power
from tutelage.scaling.phase_diagram import phase_diagram, plot_phase_diagram, plot_transitions, transitions

d, N, N1, N2, M1, M2, D1 = sympy.symbols("d N N1 N2 M1 M2 D1", positive=True)
beta2, C, S, n, L = sympy.symbols("beta2 C S n L", positive=True)
THREE = [Dense("N1"), Dense("N2")]
PUBLISHED = ["GP-GP", "GP-Sp", "Sp-Mag"]


def same(left, right) -> bool:
    return sympy.simplify(sympy.powdenest(left / right, force=True)) == 1


def three(label):
    return energy_of(THREE, label.split("-"), degree=3)


@pytest.mark.parametrize(
    ("label", "costs", "target_norm", "minimised_at", "minimum"),
    [
        ("GP-GP", (0, 0), d**3, {}, d**3),
        ("GP-Sp", (0, M2 * d), N2 / M2, {"M2": sympy.sqrt(N2 / d)}, sympy.sqrt(N2 * d)),
        (
            "Sp-Mag",
            (M1 * d, N1 * beta2 / M1),
            N2 / beta2,
            {"beta2": sympy.cbrt(N2**2 / (N1 * d)), "M1": sympy.cbrt(N1 * N2 / d**2)},
            sympy.cbrt(N1 * N2 * d),
        ),
    ],
)
def test_the_papers_table_of_three_layer_energies(label, costs, target_norm, minimised_at, minimum):
    energy = three(label)
    assert energy.costs == costs
    assert energy.target_norm == target_norm
    interior = energy.stationary()
    assert same(interior.pop("energy"), minimum)
    assert interior.keys() == minimised_at.keys()
    for name, expected in minimised_at.items():
        assert same(interior[name], expected)


def test_the_papers_crossovers():
    assert same(crossover(three("GP-Sp"), three("Sp-Mag"), "N1"), sympy.sqrt(N2 * d))
    assert same(crossover(three("GP-GP"), three("GP-Sp"), "N2"), d**5)
    below = predict(THREE, degree=3, scales={"N1": 1.4, "N2": 2}, patterns=PUBLISHED)
    above = predict(THREE, degree=3, scales={"N1": 1.6, "N2": 2}, patterns=PUBLISHED)
    assert [below.winners[0].label, above.winners[0].label] == ["Sp-Mag", "GP-Sp"]
    assert (
        predict(THREE, degree=3, scales={"N1": 9, "N2": "51/10"}, patterns=PUBLISHED).winners[0].label
        == "GP-GP"
    )


def test_two_layers_learn_a_cubic_with_data_in_proportion_to_d_by_few_specialised_neurons():
    found = predict([Dense("N")], degree=3, scales={"N": 1})
    assert found.exponent == 1
    assert [winner.label for winner in found.winners] == ["Sp"]
    assert same(found.winners[0].stationary()["M1"], sympy.sqrt(N / d))


def test_three_layers_of_proportional_widths_learn_in_proportion_to_d_and_patterns_tie():
    found = predict(THREE, degree=3, scales={"N1": 1, "N2": 1})
    assert found.exponent == 1
    assert {"GP-Sp", "Sp-Mag"} < {winner.label for winner in found.winners}
    # With N2 in proportion to d the first layer's specialised neurons grow as (N1 / d)^(1/3).
    assert same(three("Sp-Mag").stationary()["M1"].subs(N2, d), sympy.cbrt(N1 / d))


def test_a_convolution_of_balanced_sizes_needs_d_to_three_quarters():
    balanced = {"C": 0.5, "S": 0.5, "n": 0.5}
    for degree, activation in [(1, "linear"), (3, "erf")]:
        found = predict([Convolution("C", "S", "n")], degree=degree, activation=activation, scales=balanced)
        assert found.exponent == Fraction(3, 4)
        assert same(found.winners[0].stationary()["energy"], sympy.sqrt(C * S * n))
    lazy = energy_of([Convolution("C", "S", "n")], ["GP"], degree=3)
    assert same(lazy.total, n * S**3)


def test_an_attention_head_needs_the_root_of_context_times_d_cubed():
    for context in (0, 0.5, 1):
        found = predict([Attention("L")], degree=3, scales={"L": context})
        assert found.exponent == Fraction(3, 2) + Fraction(context) / 2
    assert {winner.label for winner in found.winners} == {"GFL", "Sp"}  # the patterns tie where L reaches d
    energy = predict([Attention("L")], degree=3, scales={"L": 0.5}).winners[0]
    assert energy.label == "GFL"
    assert same(energy.stationary()["energy"], sympy.sqrt(L * d**3))
    assert energy.scaling({"d": 1, "L": 0.5})["exponents"] == {
        "L": Fraction(1, 2),
        "d": Fraction(3, 2),
    }
    assert energy_of([Attention("L")], ["GP"], degree=3).total == L * d**3


def test_combinations_outside_the_table_follow_the_same_rules():
    # A lazy second layer keeps the first layer's spike, so three layers act as two.
    assert three("Sp-GP").total == M1 * d + N1 / M1
    # Amplifying z by D lifts its cube by D^3; on first powers GFL has the scale of specialisation.
    assert three("GFL-GP").total == N1 * D1 + (d / D1) ** 3
    linear = [energy_of([Dense("N")], [kind], degree=1).stationary()["energy"] for kind in ("GFL", "Sp")]
    assert same(linear[0], linear[1])
    assert same(three("Sp-Sp").stationary()["energy"], three("Sp-Mag").stationary()["energy"])
    assert len(energies(THREE, degree=3)) == 12


def test_bounds_take_over_where_the_interior_minimum_would_break_them():
    specialised = energy_of([Dense("N")], ["Sp"], degree=3)
    assert specialised.exponent({"d": 1, "N": Fraction(1, 2)}) == 1  # M >= 1 costs d, not sqrt(N d)
    assert specialised.scaling({"d": 1, "N": 0.5})["free"]["M1"] == (0, 0)
    assert specialised.exponent({"d": 1, "N": 3}) == 2
    assert specialised.at({"d": 100, "N": 4})["M1"] == pytest.approx(1, abs=1e-4)
    assert specialised.at({"d": 1, "N": 4})["energy"] == pytest.approx(4, rel=1e-6)  # M = 2


def test_exact_minima_agree_with_numerical_minimisation_at_huge_sizes():
    log_base = 60.0  # sizes d = e^60 and powers: constants no longer matter
    rng = np.random.default_rng(0)
    for energy in energies(THREE, degree=3):
        for _ in range(3):
            scales = {"d": 1.0, "N1": rng.uniform(0.2, 4), "N2": rng.uniform(0.2, 4)}
            sizes = {name: np.exp(log_base * value) for name, value in scales.items()}
            measured = np.log(energy.at(sizes)["energy"]) / log_base
            assert float(energy.exponent(scales)) == pytest.approx(measured, abs=0.04), energy.label


def test_minimum_of_two_monomials_over_a_bounded_quantity_by_hand():
    one = Fraction(1)
    found = tropical.minimum_monomials([{"M": one, "d": one}, {"N": one, "M": -one}], [{"M": one}], ["M"])
    assert {"d": one} in found
    assert {"N": Fraction(1, 2), "d": Fraction(1, 2)} in found
    assert len(found) == 2


def test_the_drawn_energies_of_patterns_are_those_of_the_formula_and_the_least_of_them():
    import matplotlib.pyplot as plt

    candidates = [three(label) for label in PUBLISHED]
    figure, axes = plt.subplots()
    plot_transitions(candidates, "N1", axes, fixed={"N2": 2})
    drawn = {line.get_label(): line for line in axes.get_lines()}
    for place in (0, 40, 75):
        at = {"d": 1, "N1": drawn["least"].get_xdata()[place], "N2": 2}
        expected = [
            max(sum(p * at[n] for n, p in m.items()) for m in energy.minimum) for energy in candidates
        ]
        for energy, exponent in zip(candidates, expected, strict=True):
            assert drawn[energy.label].get_ydata()[place] == pytest.approx(float(exponent))
        assert drawn["least"].get_ydata()[place] == pytest.approx(float(min(expected)))
    plt.close(figure)


def test_phase_diagram_regions_and_figure():
    import matplotlib.pyplot as plt

    candidates = [three(label) for label in PUBLISHED]
    diagram = phase_diagram(candidates, x=("N1", np.linspace(1, 3, 9)), y=("N2", np.linspace(1, 6, 11)))
    for row in diagram.rows():
        first, second = row["N1"], row["N2"]
        expected = min(3, (second + 1) / 2, max((first + second + 1) / 3, 1))
        # The bounds of Sp-Mag (1 <= M1 <= N1, beta <= N2) can only raise the energy.
        assert row["exponent"] >= expected - 1e-9
        if first > (second + 1) / 2 + 1e-9 and second < 5:
            assert row["pattern"] == "GP-Sp"
        if second > 5 + 1e-9 and first > 3:
            assert row["pattern"] == "GP-GP"
    figure, axes = plt.subplots()
    plot_phase_diagram(diagram, axes)
    figure.canvas.draw()
    plt.close(figure)
    with pytest.raises(UserError, match="no energy depends on 'width'"):
        phase_diagram(candidates, x=("width", [1]), y=("N2", [1]))


def test_parity_of_the_activation_decides_what_can_be_expressed():
    assert has_power("relu", 2)
    assert not has_power("erf", 4)
    with pytest.raises(UserError, match=r"cannot express a target of degree 2.*degrees \[1\]"):
        predict([Dense("N")], degree=2, scales={"N": 1})
    with pytest.raises(UserError, match="degree 3"):
        predict([Dense("N")], degree=3, activation="relu", scales={"N": 1})
    # Depth helps: a second ReLU layer multiplies powers 1 and 2.
    assert energy_of(THREE, ["GP", "GP"], degree=3, activation="relu").total == d**3
    assert predict([Dense("N")], degree=2, activation="relu", scales={"N": 1}).exponent == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: energy_of(THREE, ["Mag", "GP"], degree=3),
            r"Layer 1 \(Dense\) cannot magnetise.*Choose GP, GFL or Sp",
        ),
        (lambda: energy_of(THREE, ["GP"], degree=3), "one pattern per layer"),
        (lambda: energy_of(THREE, ["GP", "specialised"], degree=3), "did you mean 'specialisation'"),
        (lambda: energy_of([Attention("L"), Dense("N")], ["GP", "Sp"], degree=3), "per patch or token"),
        (
            lambda: energy_of([Dense("N"), Convolution("C", "S", "n")], ["GP", "GP"], degree=3),
            "reads raw inputs",
        ),
        (lambda: energy_of([], [], degree=3), "at least one hidden layer"),
        (lambda: predict(THREE, degree=3, scales={"N1": 1}), "no exponent given for N2"),
        (
            lambda: predict(THREE, degree=3, activation="swish", scales={"N1": 1, "N2": 1}),
            "unknown activation 'swish'",
        ),
        (lambda: predict([Dense(-3)], degree=3, scales={}), "must be positive"),
        (lambda: crossover(three("GP-GP"), three("GP-Sp"), "N1"), "does not depend on N1"),
        (lambda: three("GP-Sp").at({"d": 10}), "needs sizes for N2"),
    ],
)
def test_wrong_input_is_told_what_to_change(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_transitions_along_one_size_are_exact_and_agree_with_the_formulas():
    candidates = [three(label) for label in PUBLISHED]
    found = transitions(candidates, "N1", fixed={"N2": 2})
    assert [(s.low, s.high, s.winners) for s in found] == [
        (0, Fraction(3, 2), ("Sp-Mag",)),
        (Fraction(3, 2), 6, ("GP-Sp",)),
    ]
    assert found[0].ends == (1, Fraction(3, 2))
    along = transitions(candidates, "N2", fixed={"N1": 9})
    assert along[-1].winners == ("GP-GP",)
    assert along[-1].low == 5
    # Slowly, at points between: the winners of a stretch have the least exponent, nobody else has.
    for size, fixed in (("N1", {"N2": Fraction(7, 5)}), ("N2", {"N1": Fraction(1, 3)})):
        for stretch in transitions(energies(THREE, degree=3), size, fixed=fixed):
            middle = (stretch.low + 2 * stretch.high) / 3
            values = {e.label: e.exponent({"d": 1, **fixed, size: middle}) for e in energies(THREE, degree=3)}
            assert {n for n, v in values.items() if v == min(values.values())} == set(stretch.winners)
    with pytest.raises(UserError, match=r"no energy depends on 'N3'.*did you mean"):
        transitions(candidates, "N3", fixed={"N1": 1, "N2": 1})
