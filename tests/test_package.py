"""What is installed, what it says of itself, and the command line."""

import ast
import doctest
import importlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import bnfast
from bnfast import __main__ as command

ROOT = Path(__file__).parent.parent


@pytest.mark.thread_unsafe(reason="doctest replaces what is the process's")
@pytest.mark.parametrize(
    "name",
    [
        "bnfast",
        "bnfast.functional",
        "bnfast._groups",
        "bnfast._layers",
        "bnfast.modules",
        "bnfast._moments",
        "bnfast._config",
    ],
)
def test_docstring_examples(name):
    tried = doctest.testmod(importlib.import_module(name))
    assert tried.attempted > 0
    assert tried.failed == 0


def test_every_public_name_is_documented_and_has_an_example():
    for name in bnfast.__all__:
        assert ">>>" in getattr(bnfast, name).__doc__
        assert "{" not in re.sub(r"\{\"stdout\", \"dicts\"\}", "", getattr(bnfast, name).__doc__)


def test_stubs_name_what_there_is():
    stub = (ROOT / "bnfast" / "__init__.pyi").read_text()
    declared = set(re.findall(r"^(?:def|class) ([^\W_]\w*)", stub, re.M))
    assert declared == set(bnfast.__all__)
    listed = re.search(r"^__all__ = (\[.*?\])", stub, re.M | re.S)[1]  # a type checker reads no other file
    assert ast.literal_eval(listed) == bnfast.__all__


def test_version():
    assert f'version = "{bnfast.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_wheel(wheel):
    """What is imported, and no source that only the build needs."""
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    plain = {re.sub(r"\.[^/]*\.so$", ".so", name) for name in names}
    python = {f"bnfast/{path.name}" for path in (ROOT / "bnfast").glob("*.py*") if path.suffix in (".py", ".pyi")}
    assert plain == python | {"bnfast/py.typed", "bnfast/__init__.pxd", "bnfast/include/bnfast.h"} | {
        f"bnfast/{name}.so"
        for name in ("_machine", "_memory", "_channels_first", "_channels_last", "_points", "_call", "_kernels")
    }
    assert wheel.stat().st_size < 5 << 18  # symbols alone would take it to four times as much


def test_source_distribution(distributions):
    """All that is in the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("no repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(distributions[0]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or name.startswith("bnfast.egg-info/")}
    assert names - made == set(listed.stdout.split())


def run(*arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "bnfast", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )


def test_info_and_example():
    done = run("info")
    assert done.returncode == 0
    for word in ("bnfast", "isa", "openmp", "threads", "caches"):
        assert re.search(rf"^{word}\s+\S", done.stdout, re.M)
    done = run("example")
    assert done.stdout.count("[-1.633 -0.816  0.     0.816]") == 4
    assert done.stdout.count("[0.3 0.7]") == 2


@pytest.mark.parametrize(
    "arguments", [["bench", "4y8"], ["bench", "--threads", "0"], ["train", "--epochs", "-1"], ["x"]]
)
def test_a_wrong_command_line(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norm", "group,bach"], "argument --norm: got 'bach', wants some of batch,group,layer,instance,none"),
        (["--norm", ""], "argument --norm: got '', wants some of"),
        (["--batch-size", "2,1"], "argument --batch-size: got '1', wants whole numbers from 2 to 1024"),
        (["--batch-size", "2000"], "argument --batch-size: got '2000', wants"),
        (["--batch-size", "2;4"], "argument --batch-size: got '2;4', wants"),
    ],
)
def test_a_norm_or_batch_size_that_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["train", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "norms", "sizes", "epochs"),
    [
        (["--batch-size", "2"], ["batch", "group", "layer", "instance", "none"], [2], 4),
        (["--norm", "group"], ["group"], [2, 32], 4),
        (
            ["--norm", "none,batch", "--norm", "batch", "--batch-size", "8,4", "--batch-size", "4", "--epochs", "1"],
            ["none", "batch"],
            [4, 8],
            1,
        ),
    ],
)
def test_which_small_batches_are_trained(arguments, norms, sizes, epochs, monkeypatch):
    asked = []
    monkeypatch.setattr(command._digits, "run_small", lambda *given: asked.append(given))
    assert command.main(["train", *arguments, "--picture", "p.png"]) == 0
    assert asked == [(norms, sizes, epochs, "p.png")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1x4"], "shapes: got one value a channel in (1, 4)"),
        (["8"], "argument shapes: got '8', wants sizes"),
        (["8x4", "--axis", "5"], "axis: got 5, wants -2 to 1"),
        (["8x4", "--threads", "99999"], "argument --threads: got '99999', wants a number above 0 and up to 32768"),
        (["8x4", "--plot", "nowhere/x.png"], "argument --plot: got 'nowhere/x.png', wants a file in a folder"),
        (["8x4", "--plot", "x.xyz"], "argument --plot: got 'x.xyz', wants a file that ends with .png, .svg, .pdf"),
        (["8x4", "--plot", "tests/"], "argument --plot: got 'tests/', wants a file that ends with"),
        (["99999999x99999999"], "bnfast could not: forward"),
    ],
)
def test_a_bench_that_is_refused(arguments, message):
    done = subprocess.run([sys.executable, "-m", "bnfast", "bench", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("name", ["info", "example", "train", "bench"])
def test_help(name):
    assert run(name, "--help").stdout.startswith("usage: python -m bnfast " + name)


def test_missing_demo_packages_are_named(monkeypatch, capsys):
    for needs in ("TRAIN_NEEDS", "PLOT_NEEDS"):
        monkeypatch.setattr(command, needs, {"no_such_module": "no-such-package"})
    for what, arguments in (("train", ["train"]), ("bench --plot", ["bench", "--plot", "x.png"])):
        assert command.main(arguments) == 1
        assert f'{what} needs no-such-package; install with: pip install "bnfast[demo]"' in capsys.readouterr().err


def test_digits(tmp_path):
    """What the demonstration shows: at the high rate it learns with batch normalization, and not without."""
    from bnfast import _digits

    picture = tmp_path / "curves.png"
    accuracy = _digits.run(epochs=4, picture=picture)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert accuracy["high", "batch"] > 0.9
    assert accuracy["high", "none"] < 0.3
    assert accuracy["gentle", "batch"] > 0.8


def test_digits_in_small_batches(tmp_path, capsys):
    """At a batch size of 2 batch norm's last means are of two values, which group norm does not mind."""
    from bnfast import _digits

    picture = tmp_path / "error.png"
    accuracy = _digits.run_small(["batch", "group"], [2, 32], epochs=2, picture=picture, seeds=2)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert min(accuracy[2, "group"]) > max(accuracy[2, "batch"]) + 0.2
    assert min(accuracy[32, "batch"]) > max(accuracy[2, "batch"]) + 0.2
    table = capsys.readouterr().out
    assert re.search(r"^batch size +batch +group$", table, re.M)
    assert re.search(rf"^2 +{np.mean(accuracy[2, 'batch']):.1%} +{np.mean(accuracy[2, 'group']):.1%}$", table, re.M)


@pytest.mark.parametrize("norm", ["layer", "instance", "none"])
def test_every_norm_learns_the_digits(norm):
    from bnfast import _digits

    losses, accuracy = _digits.train(_digits.digits(), norm, 0.05, epochs=3, batch_size=32, blocks=4)
    assert np.isfinite(losses).all()
    assert accuracy > 0.6


def test_without_docstrings():
    done = subprocess.run([sys.executable, "-OO", "-m", "bnfast", "example"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == run("example").stdout


def test_an_unbuilt_tree_says_so(tmp_path):
    for path in (ROOT / "bnfast").glob("*.py"):
        (tmp_path / "bnfast").mkdir(exist_ok=True)
        (tmp_path / "bnfast" / path.name).write_text(path.read_text())
    done = subprocess.run([sys.executable, "-c", "import bnfast"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.strip().endswith(
        "ImportError: bnfast is not built here; in its source tree, run: pip install -e ."
    )
