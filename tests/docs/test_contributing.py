"""CONTRIBUTING.md and docs/design.md name files, code and commands that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("CONTRIBUTING.md", "docs/design.md")
RECIPES = (
    "Add an option of a command",
    "Add a job key",
    "Add a GPU",
    "Add an engine",
    "Add an output column",
    "Add a think-tag family",
    "Change the checkpoint format",
)
# How a path begins on these pages: with a folder of the repository, or with a room.
TOPS = {path.name for path in (*ROOT.iterdir(), *(ROOT / "batchr1").iterdir()) if path.is_dir()}


def text_of(page: str) -> str:
    """Read a page without its drawings."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def quoted(page: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text_of(page))


def paths_in(page: str) -> set[str]:
    """Collect the paths that a page quotes or links to, placeholders left out."""
    links = re.findall(r"\]\(([^)#:\s]+)[^)]*\)", text_of(page))
    paths = {path for path in quoted(page) if re.fullmatch(r"[\w.-]+(/[\w.-]*)+", path)}
    found = {path for path in paths if path.split("/")[0] in TOPS and "NAME" not in path}
    return found | {str((ROOT / page).parent.joinpath(link).resolve()) for link in links}


def members_in(page: str) -> set[tuple[str, str]]:
    """Collect what a page quotes as `Class.method`."""
    matches = (re.fullmatch(r"([A-Z][A-Za-z]+)\.([a-z_]+)", text) for text in quoted(page))
    return {(match[1], match[2]) for match in matches if match and match[2] != "md"}


def commands_in(page: str) -> set[str]:
    places = re.findall(r"`[^`]+`|^    .+$", text_of(page), re.M)
    return set(re.findall(r"make [a-z0-9-]+", " ".join(places)))


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    paths = paths_in(page)
    missing = {
        path
        for path in paths
        if not (ROOT / path).exists()
        and not (ROOT / "batchr1" / path).exists()
        and not (ROOT / "batchr1" / f"{path}.py").exists()
    }

    assert len(paths) > 20
    assert missing == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {f"make {name}" for name in re.findall(r"^([a-z0-9-]+):", makefile, re.M)}

    assert commands_in(page) - targets == set()


def test_every_method_exists() -> None:
    """The invariants of the design page name the code that keeps them."""
    wanted = members_in("docs/design.md")
    found = set()
    for path in (ROOT / "batchr1").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found |= {
                    (node.name, inner.name)
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef)
                }

    assert len(wanted) >= 8
    assert wanted - found == set()


def test_every_recipe_is_a_list_of_files() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", text, re.M | re.S))

    assert set(RECIPES) == set(sections)
    for body in sections.values():
        steps = re.findall(r"^\d\. (.+)$", body, re.M)
        assert len(steps) >= 2
        assert all("`" in step for step in steps)
