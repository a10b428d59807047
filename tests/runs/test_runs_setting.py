"""The setting of source-free transfer: which plans may open the source data, whatever they are called, and what is recorded."""

import copy
from types import SimpleNamespace

import pytest

from tutelage.errors import UserError
from tutelage.runs import setting
from tutelage.runs.identity import identify
from tutelage.runs.needs import plan
from tutelage.runs.store import Store

DIGITS = "tutelage.data.images.Digits"
PSEUDO = "tutelage.data.pseudo.PseudoImages"
SUPERVISED = {"_target_": "tutelage.methods.supervised.Supervised"}


def p_ssl(pseudo):
    return {
        "_target_": "tutelage.methods.pseudo_ssl.PseudoSemiSupervised",
        "objectives": {"consistency": {"pseudo": pseudo}},
    }


P_SSL = p_ssl("need:shards")
SOURCE, TARGET = {"_target_": DIGITS, "classes": [0, 1, 2]}, {"_target_": DIGITS, "classes": [3, 4]}
STAGES = {
    "classifier": {"data": SOURCE, "method": SUPERVISED},
    "generator": {
        "data": SOURCE,
        "method": {"_target_": "tutelage.methods.gan.Gan", "_makes_": "generator"},
        "needs": {"c": ["classifier"]},
    },
    "inversion": {
        "data": {"_target_": "another.Set"},
        "method": {"_target_": "tutelage.methods.inversion.Inversion", "_makes_": "generator"},
        "source": {"weights": "need:c"},
        "setting": "source_free",
        "needs": {"c": ["classifier"]},
    },
    "shards": {
        "data": TARGET,
        "method": {"_target_": "made.up", "_makes_": "pseudo_data", "labelling": "soft"},
        "source": {"weights": "need:c"},
        "needs": {"g": ["generator"], "c": ["classifier"]},
    },
    "pp": {
        "data": {"_target_": PSEUDO, "_reads_": "pseudo", "root": "need:shards"},
        "method": SUPERVISED,
        "needs": {"shards": ["shards"]},
    },
    "p-ssl": {
        "data": TARGET,
        "method": P_SSL,
        "model": {"weights": "need:pp"},
        "needs": {"shards": ["shards"], "pp": ["pp"]},
    },
    "real": {"data": SOURCE, "method": SUPERVISED, "seed": 1},
    "oracle-half": {"data": SOURCE, "method": SUPERVISED, "setting": "oracle"},
}


def compose(words):
    return {"name": words[0], "seed": 0, "setting": None, **copy.deepcopy(STAGES[words[0]])}


def planned(name, **changes):
    return plan(compose([name]) | copy.deepcopy(changes), compose)


def test_the_road_is_allowed_and_the_record_says_what_was_read():
    stage = planned("p-ssl")
    record = setting.check(stage).record()
    assert record["setting"] == "source_free"
    assert record["data"] == {"name": "Digits", "classes": [3, 4]}
    assert record["runs"] == [need.key for need in stage.needs.values()]
    assert {key.partition("/")[0] for key in record["source_data_only_through"]} == {
        "classifier",
        "generator",
    }
    assert all(data["classes"] == [0, 1, 2] for data in record["source_data_only_through"].values())


def test_a_generator_from_the_classifier_alone_opens_no_source_data_and_what_it_made_leads_back_to_them():
    with pytest.raises(UserError, match="opens the source data"):
        planned("inversion", data=SOURCE)
    needs = {"g": ["inversion"], "c": ["classifier"]}
    record = setting.check(planned("shards", needs=needs)).record()
    assert {key.partition("/")[0] for key in record["source_data_only_through"]} == {"classifier"}
    with pytest.raises(UserError, match="opens the source data"):
        planned("shards", needs=needs, data=SOURCE)


@pytest.mark.parametrize("classes", [[2, 3], [0, 1, 2], None, ["0", "1"]])
def test_p_ssl_and_pcs_cannot_open_the_source_data(classes):
    for stage in ("p-ssl", "shards"):
        with pytest.raises(UserError, match=r"opens the source data.*Digits.*setting=oracle"):
            planned(stage, data=TARGET | {"classes": classes})
    planned("p-ssl", data=TARGET | {"classes": classes}, setting="oracle")
    planned("p-ssl", data={"_target_": "another.Set", "classes": classes})


def test_a_pseudo_data_set_of_uniform_labels_opens_no_data():
    method = STAGES["shards"]["method"] | {"labelling": "uniform"}
    planned("shards", data=SOURCE, method=method)
    with pytest.raises(UserError, match="opens the source data"):
        planned("shards", data=SOURCE, method=method | {"labelling": "soft"})


def test_p_ssl_cannot_start_from_real_source_data():
    needs = {"shards": ["shards"], "pp": ["real"]}
    with pytest.raises(UserError, match="starts from real, which opens the source data"):
        planned("p-ssl", needs=needs)
    planned("p-ssl", needs=needs, setting="oracle")


def test_an_oracle_must_be_declared_all_the_way():
    fine = {
        "data": TARGET,
        "method": SUPERVISED,
        "model": {"weights": "need:half"},
        "needs": {"half": ["oracle-half"]},
    }
    for declared in (None, "source_free"):
        with pytest.raises(UserError, match="setting=oracle"):
            planned("real", **fine, setting=declared)
    record = setting.check(planned("real", **fine, setting="oracle")).record()
    assert record["setting"] == "oracle"


def test_a_declared_stage_may_start_from_the_classifier_but_not_open_its_data():
    given = {"method": SUPERVISED, "setting": "source_free", "needs": {"c": ["classifier"]}}
    as_source = STAGES["classifier"] | {"setting": "source"}

    def compose_source(words):
        return compose(words) | as_source

    def tuned(data):
        return plan({"name": "tuned", "seed": 0, "data": data, **copy.deepcopy(given)}, compose_source)

    tuned(TARGET)
    with pytest.raises(UserError, match="opens the source data"):
        tuned(SOURCE)


def test_a_stage_on_pseudo_data_cannot_call_itself_a_source():
    with pytest.raises(UserError, match="setting=source is for"):
        planned("pp", setting="source")


def test_no_setting_leaves_the_identity_of_earlier_runs():
    published = {"_target_": DIGITS, "_reads_": "published"}
    config = {"name": "x", "seed": 0, "data": published | {"root": "/a"}}
    assert (
        identify(config) == identify(config | {"setting": None}) != identify(config | {"setting": "oracle"})
    )
    assert identify(config) == identify(config | {"data": published | {"root": "/b"}})
    two = [
        identify(config | {"data": {"_target_": PSEUDO, "_reads_": "pseudo", "root": f"need:{name}"}})
        for name in "ab"
    ]
    assert two[0] != two[1]  # which need it is does count


def stored(tmp_path, name, **changes):
    """Put a planned stage and its needs into a store, as if they had run, and return its folder."""
    store = Store(tmp_path)
    stage = planned(name, **changes)
    for below in (*stage.prerequisites(), stage):
        store.run(below.name, below.identity).begin(below.config | {"runs_dir": str(tmp_path)}, {})
    return store.run(stage.name, stage.identity).path


def test_what_is_named_by_its_folder_is_held_to_the_rule_too(tmp_path):
    shards, pp = stored(tmp_path, "shards"), stored(tmp_path, "pp")
    free = {
        "method": p_ssl(str(shards)),
        "model": {"weights": str(pp / "network.safetensors")},
        "needs": {},
    }
    record = setting.check(planned("p-ssl", **free)).record()
    assert len(record["runs"]) == 2 and record["source_data_only_through"]
    with pytest.raises(UserError, match="source-free stage, but opens the source data"):
        planned("p-ssl", **free, data=SOURCE)
    real = stored(tmp_path, "real")
    with pytest.raises(UserError, match="starts from real, which opens the source data"):
        planned("p-ssl", **(free | {"model": {"weights": str(real)}}))
    with pytest.raises(UserError, match="as an oracle"):
        planned("p-ssl", **(free | {"model": {"weights": str(stored(tmp_path, "oracle-half"))}}))


def test_a_refusal_says_who_opens_what_and_what_was_trained_on_it():
    stage, other = (SimpleNamespace(config={"name": name}) for name in ("me", "other"))
    rest = "on which c/1 was trained. Choose other target data or classes (data.classes), or declare setting=oracle"
    for opener, data, said in (
        (stage, SOURCE, "opens the source data: Digits (classes [0, 1, 2])"),
        (stage, {"_target_": "a.B", "classes": None}, "opens the source data: B (classes all)"),
        (other, SOURCE, "starts from other, which opens the source data: Digits (classes [0, 1, 2])"),
    ):
        assert (
            setting._refusal(stage, opener, "c/1", data) == f"me is a source-free stage, but {said}, {rest}"
        )
    assert setting._shown({"_target_": "a.B", "root": "r", "classes": None, "per_class": 0, "seed": 1}) == {
        "name": "B",
        "root": "r",
        "per_class": 0,
    }
