"""The asv dashboard: two commits measured, published, opened in a browser. `pytest -m dashboard` runs it; it takes
minutes, and needs asv, git, npm and chromium. The picture is dashboard.png in pytest's temporary folder."""

import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What asv's page loads from public servers, from packages instead, so that no server is needed.
SCRIPTS = ["jquery@3", "flot@0.8", "flot-orderbars@1", "stupid-table-plugin@1", "blueimp-md5@2", "bootstrap@3"]
# Tells in the page what the graph has drawn: the number of points of each line.
PROBE = """<script>setTimeout(function () {
  document.body.setAttribute("data-drawn", $("#main-graph").data("plot").getData().map(s => s.data.length).join(" "));
}, 5000)</script>"""


def missing():
    tools = [tool for tool in ("git", "npm", "chromium") if not shutil.which(tool)]
    return tools + [module for module in ("asv", "virtualenv") if not importlib.util.find_spec(module)]


pytestmark = [
    pytest.mark.dashboard,
    pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())}"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the repository's history"),
]


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def site(tmp_path):
    """The address of the published dashboard."""
    run("git", "clone", "-q", str(ROOT), "clone", cwd=tmp_path)
    bench = tmp_path / "clone" / "asv_bench"
    asv = functools.partial(run, sys.executable, "-m", "asv", cwd=bench)
    asv("machine", "--yes")
    asv("run", "--quick", "--bench", "timeraw_import", "-s", "2", "HEAD~2..HEAD")
    asv("publish")
    html = bench / ".asv" / "html"
    run("npm", "install", "--silent", "--prefix", str(html), *SCRIPTS, cwd=tmp_path)
    page = (html / "index.html").read_text()
    for address in re.findall(r'"(https://[^"]+\.(?:js|css))"', page):
        name = address.rpartition("/")[2]
        found = [*html.glob(f"node_modules/**/{name}"), *html.glob(f"node_modules/**/{name.replace('.min', '')}")]
        if "jquery-" in name:
            found = [html / "node_modules/jquery/dist/jquery.min.js"]
        page = page.replace(address, found[0].relative_to(html).as_posix())
    page = re.sub(r' integrity="[^"]*" crossorigin="anonymous"', "", page).replace("</head>", PROBE + "</head>")
    (html / "index.html").write_text(page)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), functools.partial(Quiet, directory=html)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/#speed.timeraw_import"
        server.shutdown()


def test_graphs_of_two_commits_are_drawn(site, tmp_path):
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,800"]
    browser += ["--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
    page = run(*browser, "--dump-dom", site, cwd=tmp_path)
    drawn = re.search(r'data-drawn="([^"]*)"', page)
    assert drawn, page[-2000:]
    assert max(json.loads(f"[{drawn[1].replace(' ', ',')}]")) >= 2
    run(*browser, "--screenshot=dashboard.png", site, cwd=tmp_path)
    assert (tmp_path / "dashboard.png").stat().st_size > 10_000
