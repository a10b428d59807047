"""The page of a report in a real browser: no errors, no overflow, links, sorting, keyboard, dark mode, hostile names, live.

Without Chromium on the machine these are marked slow, and skipped with that reason.
"""

import itertools
import shutil
import threading

import pytest

from tutelage.reporting import page_data, page_tables
from tutelage.reporting.index import Index
from tutelage.reporting.live import View, server
from tutelage.reporting.runs_report import free_report, write_report
from tutelage.runs.json_lines import MetricsWriter
from tutelage.runs.records import read_json, write_json

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(
        BROWSER is None, reason="no browser: Chromium (`apt install chromium`) is not on this machine"
    ),
    *([pytest.mark.slow] if BROWSER is None else []),
]
HOSTILE = "<img src=x onerror=\"document.title='pwned'\">"
PAIRS = [{"guide": f"stage.{i}", "network": f"layers.{i}.linear"} for i in range(6)]


def fill(make):
    """A sweep of two rates, guided runs with pairs, and one with hostile names."""
    for seed in range(3):
        for lr in (0.1, 0.01):
            make("s/plain", seed, 0.3 + lr + seed / 100, optimizer__lr=lr, model__note=HOSTILE)
        for name in ("s/guided", "s/watched"):
            run = make(
                name, seed, 0.8 + seed / 100, model__note="an arm with a long name that has no end " * 3
            )
            setup = run.path / "setup.json"
            known = read_json(setup) if setup.is_file() else {}
            write_json(setup, known | {"method": {"objectives": {"alignment": {"pairs": PAIRS}}}})
            run.log.write_text(f"{HOSTILE}\nthe last line\n")
            with MetricsWriter(run.path / "metrics.jsonl") as writer:
                for step in range(10, 110, 10):
                    pairs = {f"train/similarity/{i:02d}": step / 100 / i for i in range(1, 7)}
                    writer.write({"step": 200 + step, "train/alignment": 6 - sum(pairs.values()), **pairs})


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Open an address; at the end of the test nothing was said on the console, loaded from elsewhere or asked in a dialog."""
    contexts, said = [], []

    def opened(address, width=1280, **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        allowed = (address.partition("#")[0], "data:", "http://127.0.0.1:")
        page.on("request", lambda asked: None if asked.url.startswith(allowed) else said.append(asked.url))
        page.goto(address)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture
def address(make, store):
    fill(make)
    write_report(store, "s")
    return (store.root / "s" / "report.html").as_uri()


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_it_fits_a_phone_and_a_wide_screen_in_light_and_dark(opened, address):
    grounds = []
    for width, scheme in ((390, "light"), (1280, "dark")):
        page = opened(address, width, color_scheme=scheme)
        assert overflow(page) <= 0
        assert page.locator("#curve-chart canvas").count() == 1 and page.locator(".heat canvas").count() == 2
        assert page.locator("#sweep-chart path").count() == 12
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.goto(address + "#" + page.locator("#runs-table a").first.get_attribute("href")[1:])
        page.wait_for_selector("#run-title")
        assert overflow(page) <= 0
    assert grounds[0] == "rgb(255, 255, 255)" and grounds[1] != grounds[0]


def test_verdicts_are_in_sight_on_a_tablet_and_on_paper_which_is_white(opened, address):
    page = opened(address, 768, color_scheme="dark")
    cut = "[...document.querySelectorAll('table.stacked')].filter(t => t.scrollWidth > t.parentElement.clientWidth + 1).length"
    assert page.locator("table.stacked").count() == 2 and page.evaluate(cut) == 0
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(media="print")
    assert page.evaluate(cut) == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark


def test_every_link_of_the_page_leads_to_what_it_says(opened, address):
    page = opened(address)
    links = page.eval_on_selector_all(
        "a[href^='#']", "all => [...new Set(all.map(a => a.getAttribute('href')))]"
    )
    assert len([link for link in links if link.startswith("#run-")]) == 12
    for link in links:
        page.evaluate("link => { location.hash = link; }", link)
        if link.startswith("#run-"):
            page.wait_for_function(
                "id => document.querySelector('#run dd')?.textContent.endsWith(id)", arg=link[5:]
            )
            assert page.locator("#overview").is_hidden()
        else:
            page.wait_for_function("() => document.getElementById('run').hidden")
            assert page.locator(link).count() == 1


def test_a_run_has_its_curves_pairs_settings_log_and_origin(opened, address):
    page = opened(address)
    page.locator("#runs-table tr", has_text="s/guided").first.locator("td a").first.click()
    page.wait_for_selector("#run .heat canvas")
    assert page.evaluate("document.activeElement.id") == "run-title"
    text = page.locator("#run").inner_text()
    assert "the last line" in text and HOSTILE in text and "A processor" in text and "model.note" in text
    assert "End of its log" in text and "Where its numbers come from" in text
    assert page.locator("#run img").count() == 0 and page.title() != "pwned"
    page.locator("#run input[type=range]").press("Home")
    assert "step 210" in page.locator("#run").inner_text()
    page.go_back()
    assert page.locator("#overview").is_visible()


def test_columns_sort_and_rows_are_found_by_keyboard_alone(opened, address):
    page = opened(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    head = page.locator("#runs-table th", has_text="test")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"

    def column():
        return [
            float(text)
            for text in page.locator("#runs-table tbody tr:visible td:nth-child(3)").all_inner_texts()
        ]

    assert column() == sorted(column()) and len(column()) == 12
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending" and column() == sorted(column(), reverse=True)
    page.locator("#runs-find").fill("s/watched")
    assert len(column()) == 3 and page.locator("#runs-said").inner_text() == "3 of 12"


def test_a_run_that_has_no_row_is_found_and_only_arms_with_curves_can_be_chosen(
    opened, store, make, monkeypatch
):
    fill(make)
    monkeypatch.setattr(page_tables, "MOST_ROWS", 4)
    monkeypatch.setattr(page_data, "MOST_LINES", 2)
    write_report(store, "s")
    page = opened((store.root / "s/report.html").as_uri())
    assert page.locator("#curve-arms input").count() == 2
    page.locator("#curve-none").click()
    assert page.locator("#curve-arms input:checked").count() == 0
    assert page.locator("#runs-table tbody tr").count() == 4
    assert "The first 4 of 12 runs" in page.locator("#runs-table caption").inner_text()
    assert page.locator("#runs-said").inner_text() == "4 of 4"
    page.locator("#runs-find").fill("s/watched")
    said = page.locator("#runs-said")
    assert said.inner_text().startswith("0 of 4, and 3 that have no row, such as s/watched/")
    said.locator("a").last.click()
    page.wait_for_selector("#run-title")
    assert "s/watched" in page.locator("#run").inner_text()


def test_curves_are_switched_and_read_by_keyboard(opened, address):
    page = opened(address)
    chart, boxes = page.locator("#curve-chart"), page.locator("#curve-arms input")
    assert page.locator("#curve-said").inner_text().startswith("Mean, over n = 3 runs; band: 95 % t interval")
    before = chart.get_attribute("aria-label")
    boxes.first.focus()
    page.keyboard.press("Space")
    assert len(chart.get_attribute("aria-label")) < len(before) and not boxes.first.is_checked()
    page.locator("#curve-none").click()
    assert "Nothing to draw yet." in chart.inner_text()
    page.locator("#curve-all").click()
    page.locator("#curve-key").select_option("train/similarity")
    page.locator("#curve-band").select_option("std")
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#curve-said").inner_text().startswith("Step 210: ")


def test_a_filter_of_a_setting_greys_the_other_runs(opened, address):
    page = opened(address)
    assert page.locator("#sweep-chart path.off").count() == 0
    page.locator("#sweep-filters select").last.select_option(index=1)
    assert 0 < page.locator("#sweep-chart path.off").count() < 12
    assert "runs with a value" in page.locator("#sweep-said").inner_text()


def test_parallel_coordinates_hide_no_run_and_no_name_on_a_phone(opened, address):
    page = opened(address, 390)
    lines = page.eval_on_selector_all("#sweep-chart path", "all => all.map(path => path.getAttribute('d'))")
    assert len(set(lines)) == 12
    names = page.eval_on_selector_all(
        "#sweep-chart .name",
        "all => all.map(name => [name.getBoundingClientRect().left, name.getBoundingClientRect().right])",
    )
    assert all(right < left for (_, right), (left, _) in itertools.pairwise(names)) and len(names) > 2
    strokes = page.eval_on_selector_all(
        "#sweep-chart path", "all => all.map(path => path.getAttribute('stroke'))"
    )
    assert len(set(strokes)) > 2


def test_a_served_page_follows_the_runs_and_keeps_what_was_chosen(opened, make, store):
    fill(make)
    index = Index(store.root)
    view = View(store, lambda: free_report(store, "s", index), every_s=1)
    with server(view, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            page = opened("http://{}:{}/".format(*serving.server_address))
            page.locator("#runs-find").fill("plain")
            page.locator("#curve-arms input").first.uncheck()
            new = make("s/plain", 7, 0.9, optimizer__lr=0.1, model__note=HOSTILE)
            page.wait_for_selector(f"tr[data-run='{new.identity}']", state="attached")
            assert page.locator("#runs-find").input_value() == "plain"
            assert not page.locator("#curve-arms input").first.is_checked()
            assert page.locator("#runs-table tbody tr:visible").count() == 7
            page.evaluate("id => { location.hash = '#run-' + id; }", new.identity)
            page.wait_for_selector("#run canvas")
            assert overflow(page) <= 0
        finally:
            serving.shutdown()
            thread.join()
