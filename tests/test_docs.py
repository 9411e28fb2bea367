"""The pages hang together: all are in the menu, and links inside the project lead somewhere."""

import ast
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def test_the_menu_names_every_page_and_no_other():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = re.findall(r": (\S+\.md)$", menu, flags=re.MULTILINE)
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    inside = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in inside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_text_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|benchmarks|hbnn_larq|training|zoo|docs)/[\w./]+\.\w+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "page", ["loss_surface", "method", pytest.param("rivals", marks=pytest.mark.slow), "zoo"]
)
def test_code_runs_as_pasted(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    scope: dict = {}
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), scope)
    if page == "zoo":
        assert scope["logits"].argmax() == 2  # what the page says that the scan shows


def test_anchors_within_the_pages_lead_to_headings():
    """As mkdocs makes them of headings: small letters, words with hyphens, no other signs."""

    def anchors(path):
        headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
        return {re.sub(r"[ -]+", "-", re.sub(r"[^\w -]", "", text.lower())) for text in headings}

    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            if not path.startswith("http"):
                target = (page.parent / path).resolve() if path else page
                assert anchor in anchors(target), f"{page.name}: {link}"


def test_public_functions_say_what_they_raise():
    """Functions of the maps and the rivals whose arguments can be wrong."""
    from hbnn_larq import epc, poincare

    for module in (poincare, epc):
        for name in module.__all__:
            found = getattr(module, name)
            of_maps = inspect.isfunction(found) and name != "put_in_ball"  # given what is checked
            if of_maps and "r" in inspect.signature(found).parameters:
                assert "# Raises" in found.__doc__, f"{module.__name__}.{name}"


def test_no_docstring_lost_a_backslash():
    r"""In a string that is not raw \\tilde, \\frac and \\right become control characters."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    lost = []
    for folder in ("hbnn_larq", "zoo", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            texts = [ast.get_docstring(n, clean=False) for n in nodes if isinstance(n, documented)]
            lost += [path.name for text in texts if re.search(r"[\t\f\v\x07\x08\r]", text or "")]
    assert lost == []
