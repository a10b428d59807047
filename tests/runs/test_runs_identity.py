"""Identity: what changes a number changes the hash, nothing else does."""

import hashlib
import json
import math
from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import UserError
from tutelage.runs.identity import EXCLUDED, canonical, flatten, identify, is_excluded, without_excluded

quick = settings(max_examples=60, deadline=None)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(lambda k: "." not in k)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
configs = st.dictionaries(keys, plain, max_size=5)


def _shuffled(value, random):
    if isinstance(value, dict):
        items = [(key, _shuffled(item, random)) for key, item in value.items()]
        random.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return tuple(_shuffled(item, random) for item in value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@quick
@given(configs, st.randoms())
def test_order_of_keys_tuples_and_whole_floats_do_not_matter(config, random):
    assert identify(config) == identify(_shuffled(config, random))


@quick
@given(
    st.dictionaries(
        keys | st.sampled_from(sorted({key.partition(".")[0] for key in EXCLUDED})), plain, max_size=5
    )
)
def test_the_hash_is_of_the_whole_configuration_as_text(config):
    """Sections are made text one by one, each once; written the slow way it is the whole at once."""
    text = json.dumps(canonical(without_excluded(config)), sort_keys=True, separators=(",", ":"))
    for _ in range(2):
        assert identify(config) == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_equal_values_of_several_types_are_not_taken_for_each_other():
    """True, 1 and 1.0 are equal to Python: what is known of one section must not be said of another."""
    one, true, whole, text = ({"model": {"width": value}} for value in (1, True, 1.0, "1"))
    assert identify(one) == identify(whole) and len({identify(each) for each in (one, true, text)}) == 3
    assert identify({1: {"a": 2}}) == identify({"1": {"a": 2.0}})
    with pytest.raises(UserError, match=r"'model.width\[0\]' must be plain data"):
        identify({"model": {"width": [{1, 2}]}})


@quick
@given(configs, keys, plain)
def test_another_value_is_another_run(config, key, value):
    changed = {**config, key: value}
    same = key in config and repr(without_excluded(config)) == repr(without_excluded(changed))
    if same or is_excluded(key):
        return
    before = config.get(key, "absent: no such value is drawn")
    if _equal(before, value):
        return
    assert identify(config) != identify(changed)


def _equal(one, other):
    # The meaning of "same value" written the slow way: numbers by value, booleans apart, NaN equal to itself.
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    return type(one) is type(other) and one == other


@quick
@given(configs)
def test_survives_json_and_yaml(tmp_path_factory, config):
    from tutelage.runs.records import read_yaml, write_yaml

    assert identify(config) == identify(json.loads(json.dumps(config)))
    printable = json.loads(json.dumps(config, default=str))
    path = tmp_path_factory.mktemp("c") / "config.yaml"
    write_yaml(path, printable)
    assert identify(read_yaml(path)) == identify(printable)


def test_true_is_not_one_and_text_is_not_number():
    hashes = {
        identify({"a": value})
        for value in (True, 1, "1", "true", None, [1], math.nan, "NaN", math.inf, -math.inf)
    }
    assert len(hashes) == 10
    assert identify({"a": 1}) == identify({"a": 1.0}) == identify({"a": 1.0 + 0.0})
    assert identify({"a": 0.0}) == identify({"a": -0.0})


@pytest.mark.parametrize("pattern", EXCLUDED)
def test_every_exclusion_is_outside(pattern):
    key = pattern.replace("needs.*", "needs.teacher").replace("*", "_anything")
    config: dict = {
        "name": "demo/plain",
        "data": {"batch_size": 8, "_reads_": "published"},
        "method": {"objectives": {"_anything": {"weight": 1}}, "unlabelled": {"_reads_": "published"}},
        "hardware": {"devices": 1},
        "fit": {"max_steps": 3},
        "needs": {"teacher": {"run": "a"}},
    }
    before = identify(config)
    *way, last = key.split(".")
    place = config
    for part in way:
        place = place.setdefault(part, {})
    place[last] = {"deep": ["/somewhere"]}
    assert identify(config) == before
    assert EXCLUDED[pattern]


def test_what_stays_inside():
    base = {
        "name": "n",
        "hardware": {"devices": 1},
        "data": {"root": "a", "batch_size": 8},
        "needs": {"t": {"run": "x/1", "command": ["a"]}},
    }
    for change in (
        {"hardware": {"devices": 2}},
        {"data": {"root": "a", "batch_size": 9}},
        {"needs": {"t": {"run": "x/2", "command": ["a"]}}},
        {"needs": {"u": {"run": "x/1", "command": ["a"]}}},
    ):
        assert identify({**base, **change}) != identify(base)
    # A key deeper down that only shares its last word with an excluded one.
    assert identify({"model": {"runs_dir": 1}}) != identify({"model": {"runs_dir": 2}})


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, {"a": object()}, [object()]])
def test_what_is_not_plain_data_is_named(value):
    with pytest.raises(UserError, match=r"model\.thing"):
        identify({"model": {"thing": value}})


def test_number_keys():
    assert identify({"a": {1: "x", 2: "y"}}) == identify({"a": {"2": "y", "1": "x"}})
    with pytest.raises(UserError, match="twice"):
        identify({"a": {1: "x", "1": "y"}})


def test_huge_integer_is_a_message():
    with pytest.raises(UserError, match="4,000 digits"):
        identify({"seed": 10**5000})


def test_form_is_fixed():
    # Changing the form would orphan every finished run: do it knowingly.
    assert identify({"name": "demo/plain", "seed": 0, "lr": 1e-3, "runs_dir": "x"}) == "3115e8861d48"


def test_flatten():
    assert dict(flatten({"a": {"b": 1, "c": {}}, "d": [1]})) == {"a.b": 1, "a.c": {}, "d": [1]}


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 4096), rate=st.floats(1e-6, 1.0))
def test_a_value_by_interpolation_is_the_value(width, rate):
    from tutelage.config.compose import compose

    same = [f"model.width={width}", f"optimizer.lr={rate}"]
    literal = compose([*same, f"data.batch_size={width}"])
    assert identify(compose([*same, "data.batch_size=${model.width}"])) == identify(literal)
    other = identify(compose([*same, "data.batch_size=${fit.log_every_steps}"]))
    assert (other == identify(literal)) == (width == literal["fit"]["log_every_steps"])


def test_the_place_of_data_counts_where_nothing_else_tells_them_apart():
    def of(root, **data):
        return identify({"name": "n", "data": {"root": root, **data}})

    ours, own = "tutelage.data.image_folder.ImageFolder", "mine.Data"
    published = {
        "_target_": "tutelage.data.images.TorchvisionImages",
        "dataset": "cifar10",
        "_reads_": "published",
    }
    assert of("a", **published) == of("b", **published)
    assert of("a", _target_=ours, fingerprint="f") == of("b", _target_=ours, fingerprint="f")
    assert of("a", _target_=ours) != of("b", _target_=ours)  # a YAML of one's own without the line
    assert of("a", _target_=own, fingerprint="f") == of("b", _target_=own, fingerprint="f")
    assert of("a", _target_=own) != of("b", _target_=own)
    assert of("a", _target_=ours, _reads_="pseudo") != of("b", _target_=ours, _reads_="pseudo")
    assert of("a", _target_=own, fingerprint=None) != of("b", _target_=own, fingerprint=None)


def test_the_content_of_a_weights_file_counts_in_place_of_its_path():
    def of(weights, **model):
        return identify({"name": "n", "model": {"weights": weights, **model}})

    assert of("a.safetensors", weights_digest="1") == of("b.safetensors", weights_digest="1")
    assert of("a.safetensors", weights_digest="1") != of("a.safetensors", weights_digest="2")
    assert of("scratch") != of("pretrained")


def test_settings_that_came_later_leave_earlier_runs_their_identity():
    plain = {"name": "n", "method": {"loss": "soft"}}
    for key, absent, present in (("cache", [], ["guide"]), ("balance", None, "uncertainty")):
        later = {"name": "n", "method": {"loss": "soft", key: absent}}
        assert identify(later) == identify(plain)
        assert identify({"name": "n", "method": {"loss": "soft", key: present}}) != identify(plain)
    assert identify(plain | {"frozen": {}}) == identify(plain) != identify(plain | {"frozen": {"a": {}}})


@given(
    st.lists(
        st.sampled_from(
            ["data", "root", "cache", "cache_dir", "needs", "a", "command", "method", "objectives"]
        )
        | st.sampled_from(["pseudo", "runs_dir", "rootx", "", "a\nb", "hardware", "threads", "fit", "tags"]),
        min_size=1,
        max_size=5,
    )
)
def test_a_key_is_excluded_if_a_pattern_covers_it_part_by_part(parts):
    def covers(pattern):
        wanted = pattern.split(".")
        return len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted))

    assert is_excluded(".".join(parts)) == any(map(covers, EXCLUDED))


def test_an_option_that_came_later_says_nothing_while_it_is_off():
    def objective(**more):
        return {"method": {"objectives": {"soft": {"temperature": 2.0, **more}}}}

    assert identify(objective(standardise=False)) == identify(objective())
    assert identify(objective(standardise=True)) != identify(objective())
