"""The rules of the house: what may import what, how large a thing may grow, how prose begins.

Each rule is a function from a parsed package to the places that break it. Every rule is also run
on a planted package that breaks it, so that none of them can pass by looking away.

`KNOWN` names the two places that break a rule. An entry that no longer applies fails the
test: delete it.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from syntax_trees import Tree, docstrings, first_line, functions, read_tree, room_of

REPOSITORY = Path(__file__).parents[2]
LINE_LENGTH = 100
MODULE_LINES = 450
FOLDER_MODULES = 15
FUNCTION_LINES = 60
PARAMETERS = 8
FIRST_LINE_WORDS = 12
WEAK_OPENINGS = {"what", "how", "it", "of"}

# Room by room: the rooms that it may import. A module in batchr1/ itself is a room of its own.
# Type-checking imports and late imports count. Every room may import `batchr1` for the version.
FLOOR = {"records", "errors", "events", "faults", "columns", "seeds", "version"}
MAY_IMPORT: dict[str, set[str]] = {
    "batchr1": {"api", "version"},
    "version": set(),
    "api": {
        "cli",
        "driver",
        "errors",
        "executors",
        "models",
        "output",
        "report",
        "sizing",
        "storage",
    },
    "errors": set(),
    "events": set(),
    "faults": set(),
    "records": set(),
    "columns": {"records"},
    "seeds": {"records"},
    "storage": FLOOR,
    "reasoning": FLOOR,
    # A job file names engine kinds, think-tag families and storage options.
    "job": FLOOR | {"storage", "reasoning", "backends"},
    "dataset": FLOOR | {"job", "storage", "reasoning"},  # the opening of a think block
    "output": FLOOR | {"job", "storage", "dataset"},
    "models": FLOOR | {"job", "storage", "output"},
    "sizing": FLOOR | {"job", "storage", "models"},
    "engine": FLOOR | {"job", "reasoning", "models", "sizing"},
    "verifier": FLOOR | {"job", "reasoning", "engine"},
    # The wire: what driver and workers say to each other, and how it travels.
    "executors": FLOOR
    | {"job", "storage", "output", "reasoning", "models", "sizing", "engine", "backends"},
    # The process of a replica. It never imports the driver.
    "worker": FLOOR
    | {"job", "storage", "dataset", "output", "reasoning", "models", "sizing", "engine"}
    | {"verifier", "executors", "backends"},
    # All that differs by engine kind, for the driver and for the worker.
    "backends": FLOOR
    | {"job", "storage", "dataset", "output", "reasoning", "models", "sizing", "engine"}
    | {"executors", "worker"},
    # The process that was started. It never imports the worker.
    "driver": FLOOR
    | {"job", "storage", "dataset", "output", "reasoning", "models", "sizing", "engine"}
    | {"verifier", "executors", "backends"},
    # Satellites: they read outputs, and only the command line imports them.
    "report": FLOOR | {"job", "storage", "dataset", "output", "reasoning"},
    "export": FLOOR | {"job", "storage", "dataset", "output", "reasoning", "models"},
    # It gives verdicts again, and puts them in place as a run would.
    "rejudge": FLOOR | {"job", "storage", "dataset", "output", "reasoning", "verifier"},
    # It reads outputs or data, and runs an engine in the process that was started.
    "scoring": FLOOR
    | {"job", "storage", "dataset", "output", "reasoning", "models", "sizing", "engine"}
    | {"backends"},
    "cli": FLOOR
    | {"job", "storage", "dataset", "output", "reasoning", "models", "sizing", "engine"}
    | {"executors", "backends", "driver", "report", "export", "rejudge", "scoring"},
    "__main__": {"cli"},
}
# Who alone may import a heavy library: prefixes of module names.
ONLY_IN = {"vllm": "batchr1.engine.vllm", "ray": "batchr1.executors.ray"}

KNOWN: dict[str, dict[str, str]] = {
    "imports": {
        "batchr1.models.resolve -> batchr1.sizing.shape.weights": "resolving reads the shape too",
    },
    "circles": {
        "batchr1.storage.base, batchr1.storage.local, batchr1.storage.s3": "base opens either",
    },
}


class Broken(NamedTuple):
    """A place that breaks a rule: `where` names it without line numbers."""

    where: str
    why: str


Rule = Callable[[Tree], Iterator[Broken]]


# The rules.


def imports(tree: Tree) -> Iterator[Broken]:
    """Rooms import only the rooms that the table allows."""
    for module in tree.values():
        allowed = {"batchr1", module.room, *MAY_IMPORT.get(module.room, set())}
        for name in sorted(tree.imports[module.name]):
            if name.split(".")[0] == "batchr1" and room_of(name) not in allowed:
                yield Broken(
                    f"{module.name} -> {name}", f"{module.room} may not import {room_of(name)}"
                )


def rooms(tree: Tree) -> Iterator[Broken]:
    """Every room has a line in the table."""
    for room in sorted({module.room for module in tree.values()} - MAY_IMPORT.keys()):
        yield Broken(f"batchr1.{room}", "no line in MAY_IMPORT")


def circles(tree: Tree) -> Iterator[Broken]:
    """No modules import each other, directly or around."""
    graph = {name: found & tree.keys() for name, found in tree.imports.items()}
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = graph[start]
        while todo:
            seen |= todo
            todo = set().union(*(graph[name] for name in todo)) - seen
        reach[start] = seen
    rings = {
        ", ".join(sorted(other for other in reach[name] if name in reach[other]))
        for name in graph
        if name in reach[name]
    }
    for ring in sorted(rings):
        yield Broken(ring, "these import each other")


def heavy_imports(tree: Tree) -> Iterator[Broken]:
    """`vllm` and `ray` are imported in one place each."""
    for module in tree.values():
        tops = {name.split(".")[0] for name in tree.imports[module.name]}
        for library, home in ONLY_IN.items():
            if library in tops and not module.name.startswith(home):
                yield Broken(module.name, f"imports {library}, which belongs to {home}")


def module_length(tree: Tree) -> Iterator[Broken]:
    """Modules stay short."""
    for module in tree.values():
        lines = len(module.text.splitlines())
        if lines > MODULE_LINES:
            yield Broken(module.name, f"{lines} lines, at most {MODULE_LINES}")


def folder_size(tree: Tree) -> Iterator[Broken]:
    """Folders stay small; `__init__` does not count."""
    sizes = Counter(module.folder for module in tree.values() if not module.package)
    for folder, size in sorted(sizes.items()):
        if size > FOLDER_MODULES:
            yield Broken(folder, f"{size} modules, at most {FOLDER_MODULES}")


def function_length(tree: Tree) -> Iterator[Broken]:
    """Functions fit a screen."""
    for module in tree.values():
        for name, node in functions(module):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield Broken(name, f"{lines} lines, at most {FUNCTION_LINES}")


def parameter_count(tree: Tree) -> Iterator[Broken]:
    """Functions take few parameters; `self` and `cls` do not count."""
    for module in tree.values():
        for name, node in functions(module):
            given = node.args
            names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            names += [arg.arg for arg in (given.vararg, given.kwarg) if arg]
            count = len([arg for arg in names if arg not in ("self", "cls")])
            if count > PARAMETERS:
                yield Broken(name, f"{count} parameters, at most {PARAMETERS}")


def fmt_skip(tree: Tree) -> Iterator[Broken]:
    """The formatter is never sent away."""
    for module in tree.values():
        if re.search(r"#\s*fmt:\s*(skip|off)", module.text):
            yield Broken(module.name, "turns the formatter off")


def package_docstrings(tree: Tree) -> Iterator[Broken]:
    """A package's docstring names its modules and sub-packages."""
    children = defaultdict(set)
    for name in tree:
        children[name.rpartition(".")[0]].add(name.rpartition(".")[2])
    for module in tree.values():
        if module.package:
            words = set(re.findall(r"\w+", ast.get_docstring(module.tree) or ""))
            missing = sorted(children[module.name] - words - {"__main__"})
            if missing:
                yield Broken(module.name, f"the docstring does not name {', '.join(missing)}")
            elif not words:
                yield Broken(module.name, "no docstring")


def line_length(tree: Tree) -> Iterator[Broken]:
    """Lines fit the width of the formatter."""
    for module in tree.values():
        for line in module.text.splitlines():
            if len(line) > LINE_LENGTH:
                yield Broken(f"{module.name}: {line.strip()}", f"{len(line)} columns")


def openings(tree: Tree) -> Iterator[Broken]:
    """Docstrings begin with a verb or a noun, not with what, how, it or of."""
    for module in tree.values():
        for name, text in docstrings(module):
            word = re.match(r"\W*(\w*)", text)
            if word and word[1].lower() in WEAK_OPENINGS:
                yield Broken(name, f"begins with {word[1]!r}")


def first_lines(tree: Tree) -> Iterator[Broken]:
    """Docstrings begin with a short line."""
    for module in tree.values():
        for name, text in docstrings(module):
            words = len(first_line(text).split())
            if words > FIRST_LINE_WORDS:
                yield Broken(name, f"a first line of {words} words, at most {FIRST_LINE_WORDS}")


RULES: list[Rule] = [
    imports,
    rooms,
    circles,
    heavy_imports,
    module_length,
    folder_size,
    function_length,
    parameter_count,
    fmt_skip,
    package_docstrings,
    line_length,
    openings,
    first_lines,
]


@pytest.fixture(scope="module")
def house() -> Tree:
    return read_tree(REPOSITORY / "batchr1")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(house: Tree, rule: Rule) -> None:
    found = {broken.where: broken.why for broken in rule(house)}
    known = KNOWN.get(rule.__name__, {})

    assert {where: why for where, why in found.items() if where not in known} == {}
    assert [where for where in known if where not in found] == [], "mended: delete it from KNOWN"


# A package that keeps every rule.
SOUND = {
    "__init__.py": '"""Test package: records, cli, driver, worker."""',
    "records.py": '"""Records that flow."""',
    "cli/__init__.py": '"""Commands: main."""',
    "cli/main.py": "@click.command()\ndef command(a, b, c, d, e, f, g, h, i): ...",
    "driver/__init__.py": '"""Driver: run_job, tally."""',
    "driver/run_job.py": "from batchr1 import records",
    "driver/tally.py": "from batchr1.driver import run_job",
    "worker/__init__.py": '"""Worker: main."""',
    "worker/main.py": "from batchr1.records import Sample",
}
# Files that break a rule when they are put into that package, and the place that is found.
RUN_JOB, MAIN = "driver/run_job.py", "worker/main.py"
PLANTS: list[tuple[Rule, dict[str, str], str]] = [
    (imports, {RUN_JOB: "import batchr1.worker.main"}, "driver.run_job -> batchr1.worker.main"),
    (
        imports,
        {MAIN: "def late():\n    from batchr1.driver.tally import Tally"},
        "worker.main -> batchr1.driver.tally",
    ),
    (
        imports,
        {MAIN: "if TYPE_CHECKING:\n    from ..driver.tally import Tally"},
        "worker.main -> batchr1.driver.tally",
    ),
    (
        imports,
        {MAIN: "importlib.import_module(f'batchr1.driver.t{name}')"},
        "worker.main -> batchr1.driver.tally",
    ),
    (
        imports,
        {RUN_JOB: "from batchr1.report import page", "report/page.py": ""},
        "driver.run_job -> batchr1.report.page",
    ),
    (imports, {"records.py": "from batchr1 import cli"}, "records -> batchr1.cli"),
    (rooms, {"attic.py": ""}, "attic"),
    (
        circles,
        {RUN_JOB: "def late():\n    import batchr1.driver.tally"},
        "driver.run_job, batchr1.driver.tally",
    ),
    (heavy_imports, {RUN_JOB: "def late():\n    import vllm.outputs"}, "driver.run_job"),
    (heavy_imports, {MAIN: "from ray import remote"}, "worker.main"),
    (module_length, {MAIN: "\n" * 451}, "worker.main"),
    (folder_size, {f"worker/m{number}.py": "" for number in range(15)}, "worker"),
    (function_length, {MAIN: "def long():" + "\n    pass" * 60}, "worker.main.long"),
    (
        parameter_count,
        {MAIN: "class A:\n    def many(self, a, b, c, d, e, f, g, *h, **i): ..."},
        "worker.main.A.many",
    ),
    (fmt_skip, {MAIN: "X = 1  # fmt: " + "skip"}, "worker.main"),
    (package_docstrings, {"worker/loop.py": ""}, "worker"),
    (package_docstrings, {"worker/__init__.py": ""}, "worker"),
    (line_length, {MAIN: "X" * 101}, "worker.main: " + "X" * 101),
    (openings, {MAIN: 'def f():\n    """How f is done."""'}, "worker.main.f"),
    (openings, {MAIN: '"""`What` a module is."""'}, "worker.main"),
    (first_lines, {MAIN: 'class A:\n    """' + "One " * 13 + '."""'}, "worker.main.A"),
    (
        first_lines,
        {MAIN: '"""A sentence that runs\nover its first line, and so is longer than twelve."""'},
        "worker.main",
    ),
]


def _planted(folder: Path, files: dict[str, str]) -> Tree:
    for name, text in (SOUND | files).items():
        path = folder / "batchr1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_tree(folder / "batchr1")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_package_breaks_no_rule(tmp_path: Path, rule: Rule) -> None:
    assert list(rule(_planted(tmp_path, {}))) == []


@pytest.mark.parametrize(
    ("rule", "files", "where"),
    PLANTS,
    ids=[f"{rule.__name__}-{number}" for number, (rule, _, _) in enumerate(PLANTS)],
)
def test_a_planted_violation_is_found(
    tmp_path: Path, rule: Rule, files: dict[str, str], where: str
) -> None:
    found = [broken.where for broken in rule(_planted(tmp_path, files))]

    assert found == [f"batchr1.{where}"]


def test_every_rule_is_planted() -> None:
    assert {rule for rule, _, _ in PLANTS} == {*RULES}


def test_modules_outside_packages_have_names_of_their_own() -> None:
    """Folders put on the path beside each other, where the first of two names would win."""
    folders = ["tests/helpers", "benchmarks", "benchmarks/probe"]
    names = Counter(path.stem for name in folders for path in (REPOSITORY / name).glob("*.py"))

    assert [name for name, count in names.items() if count > 1] == []
