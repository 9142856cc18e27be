"""The report in a real browser: nothing overflows, nothing is fetched, nothing complains."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader
from support.critical import make_rich_search, make_scalar, make_search
from support.descent_pages import make_descent_record
from support.evidence import compose, make_none_evidence, make_record
from support.many import BROKEN, make_many
from sw_audit_reports.annex import render_annex
from sw_audit_reports.html import render_html

from sw_audit.record.record import Record

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here; install one to see the report rendered"),
]
FRAME = """<!doctype html><link rel="icon" href="data:,"><body><iframe src="/report.html" width="{width}"
height="900" id="frame"></iframe><p id="seen"></p><script>
document.getElementById("frame").addEventListener("load", event => {{
  const page = event.target.contentDocument;
  const shown = [...page.querySelectorAll(".chart")].filter(one => one.getClientRects().length);
  document.getElementById("seen").textContent = JSON.stringify([page.documentElement.scrollWidth,
    page.documentElement.clientWidth, shown.length, Math.max(...shown.map(one => one.scrollWidth))]);
}});</script>"""


@dataclass
class Site:
    """A server that keeps a list of what was asked of it; browsers use it as their proxy too."""

    pages: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix(f"http://127.0.0.1:{state.port}")
            state.asked.append(path)
            body = state.pages.get(path, "").encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_CONNECT(self) -> None:
            state.asked.append(self.path)
            self.send_error(403)

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002
            del format, values

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def make_searched_record() -> Record:
    """Return a record of a model that was searched for scalars that matter, one of them of a long name."""
    parameter = "model.layers.12.block_sparse_moe.experts.gate_up_projection_of_all_experts.weight"
    rich = make_rich_search()
    scalars = (make_scalar(parameter, 127, 14335, 4095, ratio=None), *rich.scalars)
    search = make_search(*scalars, sets=rich.sets)
    return compose(make_none_evidence().model_copy(update={"critical": search}))


def open_browser(site: Site, path: str, profile: Path, *options: str) -> tuple[str, list[str]]:
    """Open a page and return what it became and what the console said; further options come last."""
    assert BROWSER is not None
    quiet = ("background-networking", "component-update", "sync", "gpu", "extensions", "default-apps")
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--no-first-run",
            *(f"--disable-{one}" for one in quiet),
            f"--user-data-dir={profile}",
            f"--proxy-server=127.0.0.1:{site.port}",
            "--proxy-bypass-list=<-loopback>",
            "--enable-logging=stderr",
            "--window-size=1400,1000",
            "--virtual-time-budget=5000",
            "--dump-dom",
            *options,
            f"http://127.0.0.1:{site.port}{path}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def list_strangers(site: Site) -> list[str]:
    """List requests for anything but the pages of the test; the browser's own errands are not the page's."""
    own = ("google", "gvt1", "chromium.org", "gstatic")
    return [one for one in site.asked if one not in site.pages and not any(name in one for name in own)]


# Five charts of each of three models, one of them of the limits, and of two of them five on how they work and
# one published curve.
# Quality, activation, noise, and two of maps of each of the two descendants that were opened.
# Three over all of many models, and of three of these, six, six and two of their own.
# The effects of single scalars beside the four of the model that was searched.
@pytest.mark.parametrize(
    ("make", "drawn"),
    [(make_record, 30), (make_descent_record, 10), (make_searched_record, 5), (make_many, 17)],
)
@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_never_scrolls_sideways_and_fetches_nothing(
    site: Site, tmp_path: Path, make: Callable[[], Record], drawn: int, width: int
) -> None:
    site.pages = {"/report.html": render_html(make()), "/frame.html": FRAME.format(width=width)}
    dom, console = open_browser(site, "/frame.html", tmp_path)
    seen = re.search(r'<p id="seen">\[(\d+),(\d+),(\d+),(\d+)\]', dom)
    assert seen, dom[-500:]
    scrolled, width_shown, charts, widest = map(int, seen.groups())
    assert scrolled <= width_shown
    assert charts == drawn
    assert widest <= width_shown
    assert console == []
    assert list_strangers(site) == []


CLICKS = """<!doctype html><link rel="icon" href="data:,"><body><iframe src="/report.html" width="1280"
height="900" id="frame"></iframe><p id="seen"></p><script>
document.getElementById("frame").addEventListener("load", event => {
  const page = event.target.contentDocument;
  const rows = () => [...page.querySelectorAll(".fleet tbody tr")];
  const names = () => rows().filter(one => one.getClientRects().length).map(one => one.cells[0].textContent);
  const buttons = [...page.querySelectorAll(".fleet thead button")];
  const button = buttons.find(one => one.textContent === "perplexity-ratio");
  const seen = [names()];
  button.click();
  seen.push(names(), button.parentElement.getAttribute("aria-sort"));
  button.click();
  seen.push(names(), button.parentElement.getAttribute("aria-sort"));
  page.getElementById("shown-fail").click();
  seen.push(names().sort());
  document.getElementById("seen").textContent = JSON.stringify(seen);
});</script>"""


def test_the_table_of_many_models_is_sorted_by_a_click_and_shows_only_those_that_are_chosen(
    site: Site, tmp_path: Path
) -> None:
    site.pages = {"/report.html": render_html(make_many()), "/frame.html": CLICKS}
    dom, console = open_browser(site, "/frame.html", tmp_path)
    seen = re.search(r'<p id="seen">(\[.+?\])</p>', dom)
    assert seen, dom[-500:]
    before, once, up, twice, down, failing = json.loads(seen[1])
    assert before[:4] == ["gone", *BROKEN, "alone"]
    assert once == [*BROKEN, *(f"tuned-{place}" for place in (7, 6, 4, 3, 1, 0)), "gone", "alone"]
    assert (up, down) == ("ascending", "descending")
    assert twice == once[::-1]
    assert failing == ["gone", *BROKEN]
    assert console == []


SCHEMES = {"dark": 0, "light": 1}
"""What Chromium calls them."""
PAPER = 680
"""Width of a page of A4 between its margins, in pixels."""
DAY = ("rgb(255, 255, 255)", "rgb(28, 32, 36)")
NIGHT = ("rgb(20, 23, 26)", "rgb(232, 234, 237)")
"""Colours of the page and of the text in its charts, in `style.css`."""
INSPECT = """<!doctype html><link rel="icon" href="data:,"><body><p id="seen"></p><script>
(async () => {
  const axe = await (await fetch("/axe.js")).text(), seen = {};
  for (const [path, width] of PAGES) {
    const frame = document.createElement("iframe");
    [frame.width, frame.height, frame.src] = [width, 900, path];
    const loaded = new Promise(resolve => frame.addEventListener("load", resolve));
    document.body.append(frame);
    await loaded;
    const view = frame.contentWindow, page = frame.contentDocument;
    const shown = [...page.querySelectorAll(".chart")].filter(one => one.getClientRects().length);
    const ink = page.querySelector('main .chart text[fill="#1c2024"]');
    const captions = [...page.querySelectorAll("caption span")].filter(one => one.getClientRects().length);
    const sizes = {
      sideways: page.documentElement.scrollWidth - page.documentElement.clientWidth,
      charts: Math.max(...shown.map(one => one.scrollWidth)) - page.documentElement.clientWidth,
      captions: Math.max(...captions.map(one => one.getBoundingClientRect().right)) - width,
      colours: [view.getComputedStyle(page.body).backgroundColor, ink && view.getComputedStyle(ink).fill],
    };
    page.querySelectorAll("details").forEach(one => { one.open = true; });
    view.eval(axe);
    const {violations} = await view.axe.run(page, {resultTypes: ["violations"]});
    sizes.wrong = violations.filter(one => ["serious", "critical"].includes(one.impact))
      .flatMap(one => one.nodes.map(node => `${one.id}: ${node.html.slice(0, 200)}`));
    seen[`${path} ${width}`] = sizes;
    frame.remove();
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();</script>"""


def show_paper(html: str) -> str:
    """Return a page as it looks on paper, on a screen."""
    return html.replace("@media print", "@media all").replace("@media screen", "@media (width < 1px)")


def open_policy(html: str) -> str:
    """Return a page without its content security policy, which lets no inspector in."""
    return re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)


def make_one() -> Record:
    """Return the record of one broken descendant, with advice that holds a long list in brackets."""
    record = make_descent_record()
    [result] = record.results[1:2]
    remedy = 'Leave it out: `llm_int8_skip_modules=["lm_head", "model.layers.1.mlp.down_proj"]`.'
    verdicts = tuple(one.model_copy(update={"remedy": remedy}) for one in result.verdicts)
    return record.model_copy(update={"models": (result.model_copy(update={"verdicts": verdicts}),)})


def inspect(
    site: Site, profile: Path, scheme: str, pages: dict[str, str], wanted: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """Look at pages with axe-core, each at a width, with all that folds out."""
    site.pages = {path: open_policy(html) for path, html in pages.items()}
    site.pages["/axe.js"] = resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    site.pages["/inspect.html"] = INSPECT.replace("PAGES", json.dumps(wanted))
    options = (f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", "--virtual-time-budget=60000")
    dom, _ = open_browser(site, "/inspect.html", profile, *options)
    found = re.search(r'<p id="seen">(\{.+?\})</p>', dom, flags=re.DOTALL)
    assert found, dom[-500:]
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    return seen


@pytest.mark.parametrize(("scheme", "wide"), [("dark", 360), ("light", 1280)])
def test_at_every_width_and_on_paper_by_day_and_by_night_nothing_is_cut_and_axe_finds_nothing_serious(
    site: Site, tmp_path: Path, scheme: str, wide: int
) -> None:
    one, many = render_html(make_one()), render_html(make_many())
    pages = {"/one.html": one, "/paper.html": show_paper(one), "/many.html": many}
    wanted = [*(("/one.html", width) for width in (360, 768, 1280)), ("/paper.html", PAPER), ("/many.html", wide)]
    seen = inspect(site, tmp_path, scheme, pages, wanted)
    assert len(seen) == len(wanted)
    for page, sizes in seen.items():
        assert sizes["wrong"] == [], page
        assert max(sizes[part] for part in ("sideways", "charts", "captions")) <= 0, (page, sizes)
        night = scheme == "dark" and "paper" not in page
        assert sizes["colours"] == list(NIGHT if night else DAY), page
    assert list_strangers(site) == []


def test_the_annex_fits_a_phone_and_paper_and_axe_finds_nothing_serious(site: Site, tmp_path: Path) -> None:
    annex = render_annex(make_one())
    pages = {"/annex.html": annex, "/paper.html": show_paper(annex)}
    seen = inspect(site, tmp_path, "light", pages, [("/annex.html", 360), ("/paper.html", PAPER)])
    assert len(seen) == 2
    for page, sizes in seen.items():
        assert sizes["wrong"] == [], page
        assert max(sizes["sideways"], sizes["captions"]) <= 0, (page, sizes)
    assert list_strangers(site) == []


def test_axe_sees_what_it_is_to_see(site: Site, tmp_path: Path) -> None:
    spoilt = '<!doctype html><html lang="en"><title>t</title><main><h1>h</h1>'
    spoilt += '<img src="data:,"><p style="color:#eee">pale'
    [sizes] = inspect(site, tmp_path, "light", {"/one.html": spoilt}, [("/one.html", 768)]).values()
    assert {one.partition(":")[0] for one in sizes["wrong"]} == {"image-alt", "color-contrast"}


def test_in_print_there_are_pages_with_numbers_and_all_that_is_folded(site: Site, tmp_path: Path) -> None:
    site.pages = {"/report.html": render_html(make_one())}
    printed = tmp_path / "report.pdf"
    open_browser(site, "/report.html", tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={printed}")
    pages = [page.extract_text() for page in PdfReader(printed).pages]
    assert len(pages) > 1
    assert all(f"{place} / {len(pages)}" in text for place, text in enumerate(pages, 1))
    words = " ".join(" ".join(pages).split())
    assert "Somebody named answers for a check" in words


def test_the_probe_sees_what_it_is_to_see(site: Site, tmp_path: Path) -> None:
    html = render_html(make_record(windows=8, items=8))
    spoilt = '<div class="chart">x</div><script>1</script><p style="width:3000px">wide</p><table><tr>'
    spoilt += f"<td>{'unbroken' * 400}</table><img src='data:text/plain,'><a href='http://elsewhere.test/'>x</a>"
    site.pages = {
        "/report.html": html.replace("<main", f"{spoilt}<main", 1),
        "/frame.html": FRAME.format(width=390),
    }
    dom, console = open_browser(site, "/frame.html", tmp_path)
    seen = re.search(r'<p id="seen">\[(\d+),(\d+)', dom)
    assert seen
    assert int(seen[1]) > int(seen[2])
    assert any("Content Security Policy" in line for line in console)


def test_an_outside_reference_would_be_noticed(site: Site, tmp_path: Path) -> None:
    site.pages = {
        "/report.html": "<img src='http://elsewhere.test/a.png'>",
        "/frame.html": FRAME.format(width=390),
    }
    open_browser(site, "/frame.html", tmp_path)
    assert any("elsewhere.test" in one for one in list_strangers(site))
