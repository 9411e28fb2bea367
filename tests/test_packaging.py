"""The wheel and the editable install are complete, and a plain import stays light."""

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"hbnn_larq": "hbnn_larq", "zoo": "hbnn_larq.zoo", "training": "hbnn_larq.training"}
HEAVY = ["larq_compute_engine", "tensorflow_datasets", "keras_tuner", "torch", "matplotlib"]
REPORT_HEAVY = f"import sys; print(*(m for m in {HEAVY} if m in sys.modules))"


def modules() -> list[str]:
    """Every module of the source tree by the name it is imported under."""
    names = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            names.append(".".join([package, *parts]).removesuffix(".__init__"))
    return [name for name in names if not name.endswith("__main__")]


def run(*command, **kwargs) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def bin_of(environment: Path, name: str) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / name


def fresh_environment(folder: Path) -> Path:
    """A virtual environment that sees this one's packages, but not its editable installs."""
    venv.create(folder, with_pip=False)
    python = bin_of(folder, "python")
    own = run(python, "-c", "import site; print(site.getsitepackages()[0])").strip()
    # Packages that a .pth file names are importable; the .pth files beside them are not read.
    Path(own, "packages_of_the_tests.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder


def pip(environment: Path, *arguments) -> None:
    python = bin_of(environment, "python")
    offline = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *offline, *arguments)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the sources, since a build leaves its own folders beside them."""
    folder = tmp_path_factory.mktemp("a source") / "hbnn larq"  # spaces on purpose
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ["setup.py", "pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory) -> Path:
    """An environment with the wheel installed."""
    wheels = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    run(*build, "--disable-pip-version-check", "--wheel-dir", wheels, source)
    (wheel,) = wheels.glob("*.whl")
    environment = fresh_environment(tmp_path_factory.mktemp("wheel") / "environment")
    pip(environment, wheel)
    return environment


def import_all(environment: Path, folder: Path) -> dict[str, str]:
    """{module: file} after importing every module there is."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: print(name, importlib.import_module(name).__file__, sep='\\t')"
    )
    output = run(bin_of(environment, "python"), "-I", "-c", code, *modules(), cwd=folder)
    rows = [line.split("\t") for line in output.splitlines() if line.startswith("hbnn_larq")]
    return {name: file for name, file in rows}


def test_every_module_is_in_the_wheel(installed, tmp_path):
    files = import_all(installed, tmp_path)
    assert sorted(files) == sorted(modules())
    elsewhere = [f for f in files.values() if not Path(f).is_relative_to(installed)]
    assert elsewhere == []


def test_data_files_are_in_the_wheel(installed, tmp_path):
    code = "import hbnn_larq, os; print(os.path.dirname(hbnn_larq.__file__))"
    package = Path(run(bin_of(installed, "python"), "-I", "-c", code, cwd=tmp_path).split("\n")[-2])
    assert (package / "py.typed").exists()
    expected = {path.name for path in (ROOT / "zoo" / "weights").glob("*")}
    found = {path.name for path in (package / "zoo" / "weights").glob("*")}
    assert found == expected


def test_the_command_is_in_the_wheel(installed, tmp_path):
    assert "demo" in run(bin_of(installed, "hbnn"), "--help", cwd=tmp_path)


def test_editable_install_imports_zoo_and_training_from_the_sources(source, tmp_path):
    environment = fresh_environment(tmp_path / "environment")
    pip(environment, "--no-build-isolation", "--editable", source)
    files = import_all(environment, tmp_path)
    assert sorted(files) == sorted(modules())
    elsewhere = [f for f in files.values() if not Path(f).is_relative_to(source)]
    assert elsewhere == []


def heavy_modules_after(code: str, folder: Path, **environment: str) -> list[str]:
    output = run(
        sys.executable,
        "-c",
        f"{code}\n{REPORT_HEAVY}",
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )
    return output.splitlines()[-1].split()


def test_plain_import_loads_nothing_heavy(tmp_path):
    assert heavy_modules_after("import hbnn_larq", tmp_path) == []


def test_zoo_and_command_load_nothing_heavy(tmp_path):
    code = "import hbnn_larq.zoo, hbnn_larq.training.cli"
    assert heavy_modules_after(code, tmp_path) == []


def test_the_check_above_can_fail(tmp_path):
    """A package that does import one of them is caught, here by stand-ins of both."""
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "careless.py").write_text("import torch\n")
    found = heavy_modules_after("import careless", tmp_path, PYTHONPATH=str(tmp_path))
    assert found == ["torch"]
