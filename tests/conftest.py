"""Small real data for all tests: scanpy's blood cells, a few ontology terms, the example notes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

HOLD_OUT = ("CD56+ NK", "CD8+/CD45RA+ Naive Cytotoxic")
CONSTANTS = {"tissue": "blood", "disease": "normal", "organism": "Homo sapiens"}


def pytest_report_header() -> str:
    import okrcell

    return f"okrcell {okrcell.__version__} from {Path(okrcell.__file__).parent}"


@pytest.fixture(autouse=True)
def own_answers(tmp_path_factory, monkeypatch) -> None:
    """Paid answers are shared by all jobs of a user: here by those of one test."""
    folder = tmp_path_factory.mktemp("answers")
    monkeypatch.setenv("OKRCELL_ANSWERS", str(folder / "answers.sqlite"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def provider():
    """The stand-in provider of openai_server.py: ``with provider.FakeOpenAI(...) as server``."""
    import importlib.util

    if "openai_server" not in sys.modules:
        path = Path(__file__).parent / "openai_server.py"
        spec = importlib.util.spec_from_file_location("openai_server", path)
        sys.modules["openai_server"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["openai_server"]


@pytest.fixture(scope="session")
def examples() -> Path:
    import okrcell.examples

    return Path(okrcell.examples.__file__).parent


@pytest.fixture(scope="session")
def pbmc(tmp_path_factory) -> Path:
    """The quickstart's input: 700 PBMCs, near-counts, a synthetic batch."""
    from okrcell.quickstart import make_input

    return make_input(tmp_path_factory.mktemp("input"), 0)["path"]


@pytest.fixture
def adata(pbmc):
    """The same cells in memory, for tests that break them."""
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return anndata.read_h5ad(pbmc)


@pytest.fixture(scope="session")
def embedder():
    from okrcell.corpus.embedder import load_embedder

    return load_embedder()


@pytest.fixture(scope="session")
def store(tmp_path_factory, pbmc, examples, embedder) -> Path:
    """A built store: the cells, the terms their profiles need, the notes. Do not write to it."""
    from okrcell.corpus import build, cells, literature, terms
    from okrcell.corpus.config import CellsConfig, CorpusConfig
    from okrcell.corpus.normalise import read_overrides

    store = tmp_path_factory.mktemp("data") / "store"
    config = CorpusConfig(hold_out=HOLD_OUT)
    build.init_store(store)
    how = CellsConfig(
        dataset_id="pbmc",
        columns={"cell_type": "bulk_labels", "batch": "batch"},
        constants=CONSTANTS,
    )
    cells.add_cells(store, pbmc, config, how, read_overrides(examples / "pbmc68k_labels.tsv"))
    terms.add_ontologies(store, ["cl", "uberon", "pato"], "profiles")
    literature.add_literature(store, [examples / "notes"])
    build.build(store, config, embedder=embedder)
    return store


@pytest.fixture
def okrcell(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own; ``kill_at=n`` SIGKILLs it at its n-th rename."""

    def call(*words: object, kill_at: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        program = (
            "import os, signal, sys\n"
            "real, left = os.replace, [int(sys.argv.pop(1))]\n"
            "def replace(*args, **kwargs):\n"
            "    left[0] -= 1\n"
            "    if left[0] == 0:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return real(*args, **kwargs)\n"
            "os.replace = replace\n"
            "from okrcell.cli import main\n"
            "main()\n"
        )
        return subprocess.run(
            [sys.executable, "-c", program, str(kill_at), *map(str, words)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **env},
            timeout=280,
            check=False,
        )

    return call


@pytest.fixture
def refused(okrcell) -> Callable[..., str]:
    """Run a command that must be refused as the user's input; return the message."""

    def call(*words: object, **kwargs: object) -> str:
        done = okrcell(*words, **kwargs)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "; expected " in message
        return message

    return call


@pytest.fixture
def read_json() -> Callable[[Path], dict]:
    return lambda path: json.loads(path.read_text())
