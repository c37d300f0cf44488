"""What gets installed, what importing costs in modules, what is public."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import reader

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    made = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return folder


def test_the_wheel_holds_one_import_package_and_all_its_files(built):
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"reader", f"longdoc_reader-{reader.__version__}.dist-info"}
    for wanted in (
        "reader/__init__.py",
        "reader/py.typed",
        "reader/strategies/coa.py",
        "reader/strategies/prompts/coa/worker.md",
        "reader/strategies/prompts/rag/answer.md",
        "reader/evals/__init__.py",
        "reader/evals/templates/report.html",
        "reader/evals/item.py",
        "reader/evals/generators/needles.py",
        "reader/evals/prompts/judge/judge.md",
        "reader/integrations/langchain.py",
        "reader/html/templates/card.html",
        "reader/html/templates/report.css",
        "reader/html/templates/report.html",
        "reader/html/templates/report.js",
        "reader/llm/catalogue.json",
        "reader/tales/the_monkeys_paw.txt",
    ):
        assert wanted in names
    sources = {
        str(Path("reader") / p.relative_to(ROOT / "reader"))
        for p in (ROOT / "reader").rglob("*.py")
    }
    assert sources <= set(names)
    assert not [n for n in names if "tests" in n or n.endswith(".pyc")]


def test_the_sdist_can_be_built_from(built):
    import tarfile

    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [n.split("/", 1)[1] for n in archive.getnames() if "/" in n]
    for wanted in ("pyproject.toml", "README.md", "strategies/coa.py", "reader/api.py"):
        assert wanted in names


def test_public_names_are_the_documented_ones():
    for name in reader.__all__:
        assert getattr(reader, name) is not None
    assert callable(reader.answer)


def test_the_function_stays_callable_after_all_modules_were_imported():
    code = (
        "import pkgutil, importlib, reader\n"
        "for m in pkgutil.walk_packages(reader.__path__, 'reader.'):\n"
        "    importlib.import_module(m.name)\n"
        "assert callable(reader.answer) and callable(reader.estimate) and callable(reader.stream)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_is_light():
    code = (
        "import sys, reader\n"
        "heavy = {'langgraph', 'openai', 'pydantic', 'tokenizers', 'tiktoken', 'xllamacpp', 'rich',"
        " 'torch', 'markitdown', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_strategy_is_found_by_its_entry_point():
    from reader.strategy import strategies

    wanted = {"coa", "full", "closed_book", "rag", "map_reduce", "quotes"}
    assert wanted <= set(strategies())
