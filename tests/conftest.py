"""What several test files share."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def distributions(tmp_path_factory):
    """The source distribution and the wheel that is built from it, once."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, Path(__file__).parent.parent],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="session")
def wheel(distributions):
    return distributions[1]
