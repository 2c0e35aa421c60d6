"""The files around the code agree with each other and with what they promise a reader."""

import ast
import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import colorlib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb")) + sorted(ROOT.glob("study/*.ipynb"))


def requirements(lines):
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def locked():
    """Name -> (requirement, hashes) of each entry of requirements.lock."""
    text = re.sub(r"#.*", "", (ROOT / "requirements.lock").read_text()).replace("\\\n", " ")
    entries = {}
    for line in filter(str.strip, text.splitlines()):
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(requirement)
        name = canonicalize_name(requirement.name)
        assert name not in entries, f"{name} is locked twice"
        entries[name] = requirement, hashes
    return entries


# The environment


def test_environment_yml_lists_the_dependencies_of_pyproject():
    python, pip, packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert python.split()[0] == "python" and pip == "pip"
    assert SpecifierSet(python.split()[1]) == SpecifierSet(PROJECT["requires-python"])
    *packages, itself = packages["pip"]
    assert itself == "-e .[site,study]"
    assert requirements(packages) == requirements(PROJECT["dependencies"])


@pytest.mark.parametrize("file", ["environment.yml", "pyproject.toml"])
def test_every_dependency_says_what_it_is_for(file):
    needed = requirements(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        needed |= requirements(extra)
    said = set()
    for line in (ROOT / file).read_text().splitlines():
        name = re.search(r"([a-z0-9-]+)(\[[\w,-]+\])?[>=]=", line)
        if name and name[1] in needed:
            assert "# " in line, f"{file}: {line.strip()} has no comment"
            said.add(name[1])
    assert said >= set(requirements(PROJECT["dependencies"]))


def test_lock_pins_every_requirement_with_hashes():
    lock = locked()
    wanted = list(PROJECT["dependencies"])
    for extra in ("cluster", "jax", "study", "site", "dev"):
        wanted += PROJECT["optional-dependencies"][extra]
    for name, requirement in requirements(wanted).items():
        assert name in lock, f"{name} is not locked: make lock"
        (pin,) = lock[name][0].specifier
        assert requirement.specifier.contains(pin.version), f"{name} {pin}: make lock"
    for name, (requirement, hashes) in lock.items():
        assert re.fullmatch(r"==[\w.!]+", str(requirement.specifier)), name
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), name


def test_lock_names_no_address_and_installs_on_every_platform():
    text = (ROOT / "requirements.lock").read_text()
    for word in ("://", "--index", "--extra-index", "--find-links", " @ ", "file:"):
        assert word not in text, word
    # uv holds every constraint there against the hashes, and then refuses the whole lock.
    assert "[tool.uv]" not in (ROOT / "pyproject.toml").read_text()
    # NVIDIA's wheels exist for Linux only; the GPU line is apart.
    assert not [name for name in locked() if "nvidia" in name or "cuda" in name]


def imported(paths):
    """The top-level modules beyond the standard library that these files import."""
    modules = set()
    for path in paths:
        source = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            source = "\n".join(code_cells(json.loads(source)))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.split(".")[0])
    ours = {"colorlib", "notebooks", "study"}
    ours |= {path.stem for path in ROOT.glob("tests/**/*.py")}
    return modules - set(sys.stdlib_module_names) - ours


def test_what_is_imported_is_declared_and_what_is_declared_is_used():
    package = {
        "bs4": "beautifulsoup4",
        "PIL": "pillow",
        "skimage": "scikit-image",
        "yaml": "pyyaml",
    }

    def packages(paths):
        return {canonicalize_name(package.get(m, m)) for m in imported(paths)}

    core = set(requirements(PROJECT["dependencies"]))
    extra = {
        name for lines in PROJECT["optional-dependencies"].values() for name in requirements(lines)
    }
    used = packages([*ROOT.glob("colorlib/**/*.py"), *ROOT.glob("notebooks/*.py"), *NOTEBOOKS])
    # What goes on where an extra is not installed: the runner without pages, reading without HEIC,
    # coloring without a cluster.
    used -= {"sphinx", "pillow-heif", "fsspec", "ray"}
    # The default backend, its logs, and what the reader opens notebooks with: used without import.
    assert used <= core
    assert core - used <= {"tensorflow", "tensorboard", "jupyterlab", "ipykernel"}
    assert packages(ROOT.glob("tests/**/*.py")) <= core | extra
    study = set(requirements(PROJECT["optional-dependencies"]["study"]))
    used = packages(ROOT.glob("study/**/*.py"))
    # PostgreSQL's driver is found by SQLAlchemy.
    assert used <= core | study and study - used <= {"psycopg"}
    site = set(requirements(PROJECT["optional-dependencies"]["site"]))
    used = packages(ROOT.glob("notebooks/site/*.py"))
    # The configuration names myst-nb and the theme, the quiz reads the study's protocol with
    # pydantic; docutils is what Sphinx is made of.
    assert used - {"docutils"} <= core | site and site - used <= {
        "myst-nb",
        "pydantic",
        "sphinx-book-theme",
    }


def test_the_library_imports_nothing_of_the_study():
    files = [*ROOT.glob("colorlib/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    wanted = re.compile(r"\b(from|import) study\b")
    assert not [path.name for path in files if wanted.search(path.read_text(encoding="utf-8"))]


def test_make_test_leads_to_all_tests_and_its_time_is_told_alike():
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^test: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1].splitlines()
    assert recipe[0].strip() == "$(PYTEST)" and "make test-all runs all" in recipe[-1]
    said = makefile + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    minutes = re.findall(r"quick tests, (\w+ minutes on two cores)", said)
    assert len(minutes) == 2 and len(set(minutes)) == 1


# The package


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_help_answers_in_under_a_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = run("-m", "colorlib", "--help")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    for command in ("colorize", "train", "package"):
        assert command in done.stdout
    assert "reproduce" not in done.stdout
    assert min(seconds) < 1, seconds


@pytest.mark.parametrize(
    "statement", ["import colorlib", "from colorlib import preset_names; preset_names()"]
)
def test_import_loads_no_backend(statement):
    heavy = "{'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)"
    done = run("-c", f"import sys; {statement}; print(sorted({heavy}))")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# The notebooks


def code_cells(notebook):
    """The source of each code cell, without IPython's own lines."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            yield re.sub(r"(?m)^\s*[%!].*$", "", "".join(cell["source"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    tagged = [c for c in code if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "exactly one cell is tagged parameters"
    assert not {"execution", "ExecuteTime"} & {key for c in code for key in c["metadata"]}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_defines_helpers_of_a_few_lines_at_most(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for node in ast.walk(ast.parse("\n".join(code_cells(notebook)))):
        assert not isinstance(node, ast.ClassDef), f"class {node.name} belongs in the library"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = 1 + node.end_lineno - node.lineno
            assert lines <= 10, f"function {node.name} belongs in drawings.py or the library"


# The repository


def test_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"] and citation["title"] and citation["authors"]
    assert citation["version"] == colorlib.__version__
    (paper,) = citation["references"]
    assert paper["doi"].endswith("1712.03400") and len(paper["authors"]) == 3


def git_files(*arguments):
    listing = subprocess.run(["git", "ls-files", "-z", *arguments], cwd=ROOT, capture_output=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name]


def test_a_clone_stays_small():
    assert sum(file.stat().st_size for file in git_files() if file.is_file()) <= 60e6


def test_a_clone_holds_all_that_the_package_reads():
    ignored = git_files("--others", "--ignored", "--exclude-standard", "colorlib")
    assert not [file for file in ignored if file.suffix != ".pyc"], "see .gitignore"
