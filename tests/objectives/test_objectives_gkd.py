"""Generalised distillation of language models: its divergence, what is sampled, where it counts, and who sees what."""

import math

import pytest
import torch

from small_runs import COPIES, SMALL, TEACHER, WRITING
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError
from tutelage.losses.distillation import jensen_shannon, soft_target

S = "method.objectives.soft"
LANGUAGE = [*SMALL, "method=distillation", f"objective@{S}=gkd", *WRITING]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat while a dog ran around it and then slept " * 60)
    return [*LANGUAGE, "data=text", f"data.root={path}", "data.level=character", "data.length=12"]


def built(tmp_path, *words):
    made = build(compose([f"runs_dir={tmp_path}", *words]))
    made.method.max_steps = 10
    made.method.on_fit_start()
    stream = made.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    return made.method.train(), next(iter(stream))


def by_hand(p, q, beta):
    """The divergence of a teacher's probabilities from a student's, a term at a time."""
    if beta in (0, 1):
        p, q = (p, q) if beta == 0 else (q, p)
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    middle = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    of_teacher = sum(a * math.log(a / m) for a, m in zip(p, middle, strict=True))
    of_student = sum(b * math.log(b / m) for b, m in zip(q, middle, strict=True))
    return beta * of_teacher + (1 - beta) * of_student


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_divergence_is_the_sum_written_by_hand_and_its_slope_that_of_differences(beta):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    rows = jensen_shannon(student, teacher, beta=beta)
    wanted = [
        by_hand(p.tolist(), q.tolist(), beta)
        for p, q in zip(teacher.softmax(1), student.softmax(1), strict=True)
    ]
    torch.testing.assert_close(rows, torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(jensen_shannon(student + 3, teacher - 2, beta=beta), rows)
    torch.testing.assert_close(jensen_shannon(teacher, student, beta=1 - beta), rows)
    assert jensen_shannon(teacher, teacher, beta=beta).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda x: jensen_shannon(x, teacher, beta=beta), student.requires_grad_())


def test_at_its_ends_it_is_the_divergence_that_its_slope_tends_to():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(
        jensen_shannon(student, teacher, beta=0.0), soft_target(student, teacher, temperature=1.0)
    )
    for end, near in ((0.0, 1e-6), (1.0, 1 - 1e-6)):
        scaled = jensen_shannon(student, teacher, beta=near) / 1e-6
        torch.testing.assert_close(scaled, jensen_shannon(student, teacher, beta=end), rtol=1e-4, atol=0)
    far = jensen_shannon(torch.tensor([[400.0, 0.0]]), torch.tensor([[0.0, 400.0]]), beta=0.5)
    assert far.item() == pytest.approx(math.log(2))


def sampled_by_hand(network, batch, objective, draw, prompt):
    """A token after the other, each sample by itself, by the running sum of its probabilities."""
    network.eval()
    numbers = objective.numbers(batch, draw)
    tokens = batch.inputs.clone()
    counted = (
        batch.target_mask if batch.target_mask is not None else torch.ones_like(tokens, dtype=torch.bool)
    )
    for row in range(len(tokens)):
        for place in range(prompt, tokens.shape[1]):
            if not counted[row, place - 1]:
                continue
            with torch.no_grad():
                mask = None if batch.mask is None else batch.mask[row : row + 1, :place]
                p = network(tokens[row : row + 1, :place], mask)[0, -1].softmax(0)
            total, chosen = 0.0, 0
            for token, probability in enumerate(p.tolist()):
                total += probability
                if float(numbers[row, place]) < total:
                    chosen = token
                    break
            tokens[row, place] = chosen
    network.train()
    return tokens


@pytest.mark.parametrize("prompt", [1, 4])
def test_the_student_goes_on_from_the_prompt_and_each_sample_draws_its_own(tmp_path, text, prompt):
    words = [*text, f"{S}.prompt={prompt}", f"{S}.on_policy=1", "model.dropout=0.3"]
    method, batch = built(tmp_path, *words)
    objective = method.objectives["soft"]
    shown = objective.shows(batch, 7)
    assert torch.equal(shown.inputs, sampled_by_hand(method.network, batch, objective, 7, prompt))
    assert torch.equal(shown.inputs[:, :prompt], batch.inputs[:, :prompt])
    assert not torch.equal(shown.inputs[:, prompt:], batch.inputs[:, prompt:])
    assert torch.equal(shown.targets[:, prompt - 1 : -1], shown.inputs[:, prompt:])
    assert torch.equal(objective.shows(batch, 7).inputs, shown.inputs)
    assert not torch.equal(objective.shows(batch, 8).inputs, shown.inputs)
    some = batch._replace(**{k: getattr(batch, k)[[5, 2]] for k in ("inputs", "targets", "index")})
    assert torch.equal(objective.shows(some, 7).inputs, shown.inputs[[5, 2]])
    assert method.network.training


def test_tokens_that_are_no_answers_stay_and_padding_is_not_seen(tmp_path):
    method, batch = built(tmp_path, *LANGUAGE, *COPIES, f"{S}.on_policy=1")
    objective = method.objectives["soft"]
    shown = objective.shows(batch, 0)
    assert torch.equal(shown.inputs, sampled_by_hand(method.network, batch, objective, 0, 1))
    ahead = torch.nn.functional.pad(batch.target_mask[:, :-1], (1, 0))
    assert torch.equal(shown.inputs[~ahead], batch.inputs[~ahead])
    assert not torch.equal(shown.inputs[ahead], batch.inputs[ahead])
    method.losses(batch)["soft"].backward()


def test_a_number_beyond_the_sum_of_all_chances_draws_the_last_token(tmp_path, text, monkeypatch):
    method, batch = built(tmp_path, *text, f"{S}.on_policy=1")
    objective = method.objectives["soft"]
    monkeypatch.setattr(objective, "numbers", lambda batch, draw: torch.full(batch.inputs.shape, 1.5))
    last = method.network(batch.inputs).shape[-1] - 1
    assert objective.shows(batch, 0).inputs[:, 1:].eq(last).all()


def runs(network):
    seen = []
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    return seen


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("on_policy", [0, 1])
def test_both_networks_see_what_was_sampled_once_and_the_task_its_own_batch(tmp_path, text, on_policy, alone):
    words = [f"{S}.on_policy={on_policy}", f"{S}.prompt=3", f"{S}.beta=0.3"]
    method, batch = built(tmp_path, *text, *words, f"method.objectives.task.weight={int(not alone)}")
    objective, network, teacher = method.objectives["soft"], method.network, method.frozen["teacher"].network
    shown = objective.shows(batch, 0)
    taught, seen = runs(teacher), runs(network)
    terms = method.losses(batch)
    assert [len(one) for one in taught] == [32] and torch.equal(taught[0], shown.inputs)
    assert [len(one) for one in seen if one.shape[1] == 12] == [64 if on_policy and not alone else 32]
    assert len(seen) == (9 if on_policy else 0) + 1
    mine, theirs = network(shown.inputs)[:, 2:], teacher(shown.inputs)[:, 2:]
    wanted = jensen_shannon(mine.flatten(0, 1), theirs.flatten(0, 1), beta=0.3).mean()
    torch.testing.assert_close(terms["soft"], wanted)
    if not alone:
        torch.testing.assert_close(terms["task"], method.task.loss(network(batch.inputs), batch))


def test_the_share_of_steps_on_policy_is_the_one_asked_for_and_a_function_of_the_step(tmp_path, text):
    method, batch = built(tmp_path, *text, f"{S}.on_policy=0.3")
    objective = method.objectives["soft"]
    chosen = [objective.samples_at(draw) for draw in range(2000)]
    assert sum(chosen) / 2000 == pytest.approx(0.3, abs=0.03)
    assert chosen == [objective.samples_at(draw) for draw in range(2000)]
    assert objective.shows(batch, chosen.index(False)) is batch
    assert not torch.equal(objective.shows(batch, chosen.index(True)).inputs, batch.inputs)


def test_another_objective_of_the_same_teacher_sees_the_batch(tmp_path, text):
    more = ["+objective@method.objectives.more=soft_targets", "method.objectives.more.temperature=1"]
    method, batch = built(tmp_path, *text, *more, f"{S}.on_policy=1", f"{S}.beta=0")
    terms = method.losses(batch)
    teacher = method.frozen["teacher"]
    mine, theirs = (net(batch.inputs).flatten(0, 1) for net in (method.network, teacher))
    torch.testing.assert_close(terms["more"], soft_target(mine, theirs, temperature=1.0).mean())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([f"{S}.beta=1.5"], "beta must be from 0 to 1"),
        ([f"{S}.on_policy=-0.1"], "on_policy must be from 0 to 1"),
        ([f"{S}.prompt=0"], "prompt must be a whole number of at least 1"),
        ([f"{S}.prompt=12"], "prompt=12 leaves nothing of texts of 12 tokens"),
        (
            ["method.cache=[teacher]"],
            "method.cache: the objective 'soft' shows 'teacher' what it makes anew in each step",
        ),
    ],
)
def test_a_mistake_is_one_message(tmp_path, text, words, said):
    with pytest.raises(UserError, match=said):
        built(tmp_path, *text, *words)


def test_images_have_no_next_token(tmp_path):
    with pytest.raises(UserError, match="asks for the next token"):
        built(tmp_path, *SMALL, *TEACHER, "method=distillation", f"objective@{S}=gkd")
