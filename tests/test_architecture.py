"""The walls: who may import whom, and what the command line may load."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import okrcell

ROOT = Path(okrcell.__file__).parent
STAGES = ("corpus", "enrich", "train", "evaluate")
ROOT_MODULES = {"errors", "schemas", "artifacts", "config", "console"}
ALLOWED = {
    "corpus": {"corpus"},
    "enrich": {"enrich", "corpus"},
    "train": {"train", "corpus"},
    "evaluate": {"evaluate", "train", "corpus"},
}
ONLY_IN = {
    "chromadb": {"corpus/store.py"},
    "openai": {"enrich/client.py", "corpus/remote_embedder.py"},
    "langchain": {"enrich/client.py"},
    "langchain_core": {"enrich/client.py"},
    "langchain_openai": {"enrich/client.py", "corpus/remote_embedder.py"},
    "sentence_transformers": {"corpus/embedder.py", "enrich/support_nli.py"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_arrows_between_stages():
    for stage in STAGES:
        for path in (ROOT / stage).rglob("*.py"):
            for name in imports(path):
                parts = name.split(".")
                if parts[0] != "okrcell" or len(parts) < 2:
                    continue
                if parts[1] in STAGES:
                    assert parts[1] in ALLOWED[stage], f"{path} imports {name}"
                else:
                    assert parts[1] in ROOT_MODULES | {"__version__", "load"}, (
                        f"{path} imports {name}"
                    )


def test_root_modules_know_no_stage():
    for name in ROOT_MODULES:
        for target in imports(ROOT / f"{name}.py"):
            assert not any(target.startswith(f"okrcell.{stage}") for stage in STAGES), target


def test_guarded_libraries_stay_behind_their_module():
    for path in [*ROOT.glob("*.py"), *(p for s in STAGES for p in (ROOT / s).rglob("*.py"))]:
        place = path.relative_to(ROOT).as_posix()
        if place == "doctor.py":  # it reports versions of everything
            continue
        for name in imports(path):
            allowed = ONLY_IN.get(name.partition(".")[0])
            assert allowed is None or place in allowed, f"{place} imports {name}"


def test_help_is_fast_and_light():
    code = (
        "import sys\n"
        "from okrcell.cli import app\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'chromadb', 'scanpy', 'pandas', 'numpy', 'pyarrow', 'sklearn', 'langchain'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_of_every_group_answers(okrcell):
    for group in ((), *((stage,) for stage in STAGES)):
        start = time.monotonic()
        done = okrcell(*group, "--help")
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
        # The target is half a second; a loaded machine gets some grace.
        assert time.monotonic() - start < 5
