"""The page of a report: whole without a network or a script, every link leads somewhere, hostile texts stay texts, its size is bounded."""

import json
import math
import re
import threading
import urllib.error
import urllib.request

import pytest
from page_reader import LOADS, Page

from tutelage.errors import UserError
from tutelage.reporting import forest, page, page_data
from tutelage.reporting.index import Index
from tutelage.reporting.live import View, server
from tutelage.reporting.run_details import PAGE_BYTES, Share, details, record_of
from tutelage.reporting.runs_report import free_report, write_report
from tutelage.runs.json_lines import MetricsWriter
from tutelage.runs.records import read_json, write_json

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'><!--\u202e\x1b[2J"
PAIRS = [{"guide": "stem", "network": "layers.0"}, {"guide": "<b>head</b>", "network": "head"}]


def recorded(run, steps=30, pairs=PAIRS):
    """Give a run the rows of a guided one, and the record of its pairs."""
    path = run.path / "setup.json"
    setup = read_json(path) if path.is_file() else {}
    write_json(path, setup | {"method": {"objectives": {"alignment": {"pairs": pairs}}}})
    with MetricsWriter(run.path / "metrics.jsonl") as writer:
        for step in range(1, steps + 1):
            similar = {f"train/similarity/{i:02d}": step / steps / i for i in range(1, len(pairs) + 1)}
            loss = len(pairs) - sum(similar.values())
            row = {"step": 200 + step, "train/alignment": loss, "train/accuracy": 0.5, "train/loss": 2.0}
            writer.write({**row, **similar})
    return run


@pytest.fixture
def swept(make, store):
    """A sweep of two arms and three rates, one run failed, one begun; a guided run with layer pairs."""
    for seed in range(3):
        for lr in (0.1, 0.01):
            make("s/plain", seed, 0.3 + lr + seed / 100, optimizer__lr=lr)
        recorded(make("s/guided", seed, 0.8 + seed / 100, method__weight=2, fit__max_steps=400))
    make("s/guided", 3, failed="the loss is not finite", method__weight=2, fit__max_steps=400)
    make("s/guided", 4, method__weight=2, fit__max_steps=400)
    (store.root / "s" / "log.txt").write_text("no run's")
    return store


@pytest.fixture
def written(swept):
    write_report(swept, "s")
    return Page((swept.root / "s" / "report.html").read_text())


def check(found):
    """Assert what holds for every page."""
    assert len(found.ids) == len(set(found.ids))
    known = {*found.ids, *(f"run-{run['id']}" for run in found.json("data")["runs"])}
    for _, attributes, _ in found.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in LOADS:
            address = attributes.get(name) or ""
            assert not re.match(r"\s*([a-z]+:)?//|\s*(javascript|vbscript|https?|file):", address, re.I), (
                address
            )
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name, found.ids[0]) in found.ids
    for link in found.links:
        assert not link.startswith("#") or link[1:] in known, link
    style = "".join("".join(text) for _, _, text in found.all("style"))
    assert "@import" not in style and "url(" not in style
    assert all("".join(text).strip() for _, _, text in found.all("caption", "h1", "h2", "title"))
    assert len(found.all("table")) == len(found.all("caption"))
    assert all(attributes.get("scope") in ("col", "row") for _, attributes, _ in found.all("th"))
    for _, attributes, _ in found.all("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    (policy,) = [a["content"] for _, a, _ in found.all("meta") if a.get("http-equiv")]
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    return known


def test_a_page_is_whole_and_every_link_leads_somewhere(written, swept):
    check(written)
    data, kept = written.json("data"), written.json("details")
    assert len(data["runs"]) == 11 and set(kept) == {run["id"] for run in data["runs"]}
    folders = [link for link in written.links if not link.startswith("#")]
    assert len(folders) == 11 and all((swept.root / "s" / link / "config.yaml").is_file() for link in folders)
    assert len([link for link in written.links if link.startswith("#run-")]) >= 4 * 11
    text = "".join("".join(t) for tag, _, t in written.elements if tag == "main")
    assert "the loss is not finite" in text and "higher is better" in text


def test_a_page_shows_curves_pairs_settings_and_progress(written):
    data, kept = written.json("data"), written.json("details")
    arms = [arm["label"] for arm in data["arms"]]
    (curve,) = [
        c
        for arm, c in zip(arms, data["curves"]["validation/accuracy"], strict=True)
        if arm.startswith("guided")
    ]
    assert curve["steps"] == [100, 200] and curve["n"] == [5, 5]
    assert curve["mean"][1] == pytest.approx((0.8 + 0.81 + 0.82 + 0.5 + 0.5) / 5, abs=1e-5)
    (similar,) = [c for c in data["curves"]["train/similarity"] if c["steps"]]
    assert similar["mean"][-1] == pytest.approx((1 + 0.5) / 2)
    assert data["bounds"]["validation/accuracy"] == [0, 1] and data["bounds"]["validation/accuracy"] != [
        None,
        None,
    ]
    assert [axis["key"] for axis in data["axes"]] == ["method.arm", "optimizer.lr"]
    assert [axis["numbers"] and sorted(axis["numbers"]) for axis in data["axes"]] == [
        None,
        [0.001, 0.01, 0.1],
    ]
    guided = next(run for run in data["runs"] if data["arms"][run["arm"]]["label"].startswith("guided"))
    assert kept[guided["id"]]["pairs"]["alignment"]["names"] == ["1 stem > layers.0", "2 <b>head</b> > head"]
    begun = next(run for run in data["runs"] if run["seed"] == 4)
    assert begun["state"] == "interrupted" and begun["done"] == 0.5
    assert next(run for run in data["runs"] if run["state"] == "failed")["why"]


def test_the_same_runs_give_the_same_page_and_a_reader_never_sees_half_of_it(swept, monkeypatch):
    write_report(swept, "s")
    path = swept.root / "s" / "report.html"
    before = path.read_bytes(), path.stat().st_mtime_ns
    write_report(swept, "s")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    monkeypatch.setattr(
        "tutelage.runs.records._sync", lambda path: (_ for _ in ()).throw(OSError(28, "full"))
    )
    monkeypatch.setattr(page, "html", lambda *_: "another page")
    with pytest.raises(UserError, match="cannot write the report"):
        write_report(swept, "s")
    assert path.read_bytes() == before[0] and not list(path.parent.glob(".*.tmp"))


def test_hostile_texts_stay_texts(make, store):
    run = recorded(make("h/plain", 0, 0.5, model__note=HOSTILE, model__width=1))
    make("h/plain", 1, 0.6, model__note="x", model__width=2)
    make("h/plain", 0, failed=HOSTILE, model__note="y", model__width=3)
    run.log.write_text(HOSTILE + "\n")
    record = read_json(run.path / "provenance.json")
    record["attempts"][0] |= {"command": ["tutelage", HOSTILE], "machine": {"cpu": HOSTILE}}
    write_json(run.path / "provenance.json", record)
    with MetricsWriter(run.path / "metrics.jsonl") as writer:
        writer.write({"step": 900, f"train/{HOSTILE}": 1.0})
    write_report(store, "h")
    text = (store.root / "h" / "report.html").read_text()
    found = Page(text)
    check(found)
    assert len(found.all("script")) == 4 and not found.all("img", "iframe", "object", "b")
    assert "\u202e" not in text and "\x1b" not in text
    kept = found.json("details")[run.identity]
    assert kept["log"].startswith("</script>") and any("onerror" in key for key in kept["series"])


def test_the_policy_names_the_scripts_that_are_there(written):
    import base64
    import hashlib

    (policy,) = [a["content"] for _, a, _ in written.all("meta") if a.get("http-equiv")]
    scripts = ["".join(text) for _, attributes, text in written.all("script") if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(scripts) == 2 and all(f"'sha256-{digest}'" in policy for digest in digests)


def test_a_log_that_is_a_link_is_not_shown(make, store, tmp_path):
    run = make("l/plain", 0, 0.5)
    (tmp_path / "secret").write_text("a password")
    run.log.unlink(missing_ok=True)
    run.log.symlink_to(tmp_path / "secret")
    assert "a password" not in json.dumps(details(run, record_of(run), Share.of(1)))


def test_a_thousand_runs_make_no_page_of_a_hundred_megabytes(make, store):
    run = make("many/guided", 0, 0.5)
    names = [{"guide": f"stage.{i}.block", "network": f"layers.{i}.linear"} for i in range(40)]
    recorded(run, steps=500, pairs=names)
    run.log.write_text("a line of a log\n" * 5_000)
    for n in (1, 30, 1_000):
        found = details(run, record_of(run), Share.of(n))
        size = len(json.dumps(found, separators=(",", ":")))
        assert size < 1.5 * PAGE_BYTES / n + 3_000 and size < 300_000
        thinned = " ".join(found["left_out"])
        assert "the log's first" in thinned and ("layer pairs" in thinned or n == 1)
        assert found["series"]["train/similarity"][0][0] == 201
        assert found["series"]["train/similarity"][0][-1] == 700
    assert "thinned to" in thinned


def test_a_band_is_clipped_to_what_is_possible(make, store):
    for seed, value in enumerate((0.99, 0.7, 1.0)):
        make("c/plain", seed, value)
    data, _ = page_data.overview(free_report(store, "c"), store)
    assert data["arms"][0]["high"] == 1.0 and data["arms"][0]["low"] < 0.6


def asked(address, **headers):
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, answer.read().decode()


@pytest.fixture
def served(swept):
    index = Index(swept.root)
    view = View(swept, lambda: free_report(swept, "s", index), every_s=1)
    with server(view, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield "http://{}:{}".format(*serving.server_address), view
        serving.shutdown()
        thread.join()


def test_a_served_page_follows_the_runs_and_writes_nothing(served, swept, make):
    address, view = served
    before = sorted(swept.root.rglob("*"))
    status, text = asked(f"{address}/")
    check(Page(text))
    assert status == 200 and Page(text).json("details") == {} and address.startswith("http://127.0.0.1:")
    first = json.loads(asked(f"{address}/overview.json")[1])
    assert asked(f"{address}/overview.json?known={first['data']['digest']}") == (204, "")
    one = first["data"]["runs"][0]["id"]
    assert json.loads(asked(f"{address}/run/{one}.json")[1])["series"]
    assert sorted(swept.root.rglob("*")) == before
    new = make("s/guided", 5, 0.9, method__weight=2)
    view._read_at = -1e9
    second = json.loads(asked(f"{address}/overview.json?known={first['data']['digest']}")[1])
    assert new.identity in {run["id"] for run in second["data"]["runs"]} and new.identity in second["content"]


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/run/../x.json", "/run/000000000000.json", "/nothing"]
)
def test_nothing_else_is_served(served, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(served[0] + path)
    assert refused.value.code == 404


def test_another_site_cannot_ask(served):
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(served[0], Host="evil.example:80")
    assert refused.value.code == 403


def test_a_port_that_is_taken_is_a_message(served, swept):
    port = int(served[0].rpartition(":")[2])
    with pytest.raises(UserError, match="choose another with port="):
        server(View(swept, lambda: free_report(swept, "s")), port)


@pytest.mark.parametrize("arms", [1, 5, 8])
def test_a_figure_holds_any_number_of_arms_and_says_what_it_shows(make, store, arms, monkeypatch):
    from matplotlib.figure import Figure

    from tutelage.reporting import curves

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.touch()))
    monkeypatch.setattr(curves, "MOST_PANELS", 6)
    for arm in range(arms):
        for seed in range(3):
            make(f"f/arm{arm:02d}", seed, min(1.0, 0.97 + 0.02 * seed))
    assert curves.draw(free_report(store, "f"), store, store.root / "curves.png")
    (figure,) = drawn
    texts = [text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))]
    for said in ("higher is better", "95 % interval", "over n = 3 seeds"):
        assert any(said in text for text in texts)
    panels = [axes for axes in figure.axes if axes.get_title().startswith("arm")]
    assert len(panels) == {1: 0, 5: 0, 8: 6}[arms] and any("6 of 8 arms" in text for text in texts) is (
        arms == 8
    )
    bands = [path for axes in figure.axes for one in axes.collections for path in one.get_paths()]
    assert bands and max(path.vertices[:, 1].max() for path in bands) <= 1.0  # no accuracy is above 1


def test_a_page_that_is_opened_before_the_first_run_shows_the_table_and_then_the_runs(
    store, make, monkeypatch
):
    from tutelage.cli.commands import COMMANDS
    from tutelage.cli.reader import read
    from tutelage.cli.serve import _reports

    def opened(*words):
        given = read("serve", COMMANDS["serve"], [*words, f"runs_dir={store.root}"])
        return _reports(given.names[0], given)

    with opened("demo") as report:
        assert report().title.startswith("Deep FCN") and not any(line.values for line in report().lines)
        make("demo/plain", 0, 0.5, model__depth=7)  # of a sweep with words of its own
        (line,) = report().lines
        assert line.values == {0: 0.5}
    with opened("demo", "model.depth=7") as report:
        assert report().title.startswith("Deep FCN")  # its words say that the table is meant
    with opened("demo/plain", "model.depth=7") as report, pytest.raises(UserError, match="takes runs_dir"):
        report()


def test_a_scatter_plot_has_a_numbered_point_for_each_that_is_a_number():
    points = [("a", 1.0, 0.5, (0.4, 0.6), "red"), ("b", math.nan, 0.7, (0.6, 0.8), "blue")]
    drawn = forest.scatter(points, x="cost", y="accuracy")
    assert ">1</text>" in drawn and "red" in drawn and "blue" not in drawn and "accuracy" in drawn
    assert forest.scatter(points[1:], x="cost", y="accuracy") == ""


def test_the_unit_of_a_scale_stands_at_its_last_number():
    shown = forest.scale(forest.Axis(0.0, 100.0), "%")
    assert ">100 %</text>" in shown and shown.count("%</text>") == 1
