"""A package as syntax trees: modules, imports, definitions and docstrings, without running any."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | Function
LATE_IMPORTS = {"import_module", "__import__"}


@dataclass(frozen=True)
class Module:
    """A parsed module of the package.

    `name` is dotted, without `__init__`; `package` holds whether it is one.
    """

    name: str
    text: str
    package: bool

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> dict[ast.AST, str]:
        """All nodes, each with the dotted name of the innermost definition around it."""
        names: dict[ast.AST, str] = {self.tree: self.name}
        todo: list[ast.AST] = [self.tree]
        for node in todo:
            for field in node._fields:
                value = getattr(node, field)
                for child in value if isinstance(value, list) else (value,):
                    if isinstance(child, ast.AST) and not isinstance(child, ast.expr_context):
                        names[child] = names[node]
                        if isinstance(child, Definition):
                            names[child] = f"{names[node]}.{child.name}"
                        todo.append(child)
        return names

    @property
    def definitions(self) -> list[tuple[str, Definition]]:
        """Classes and functions, however deep, with their dotted names."""
        return [(name, node) for node, name in self.nodes.items() if isinstance(node, Definition)]

    @property
    def folder(self) -> str:
        return self.name if self.package else self.name.rpartition(".")[0]

    @property
    def room(self) -> str:
        return room_of(self.name)


class Tree(dict[str, Module]):
    """A package's modules by name."""

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The modules and libraries that each module imports anywhere in its text."""
        return {name: imported(module, self) - {name} for name, module in self.items()}


def read_tree(folder: Path) -> Tree:
    """Parse the package that lies in `folder`."""
    modules = Tree()
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        modules[name] = Module(name, path.read_text(encoding="utf-8"), package)
    return modules


def room_of(name: str) -> str:
    """Name the room of a module: the first part below `batchr1`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def imported(module: Module, tree: Tree) -> set[str]:
    """Collect what a module imports.

    A name of the package is cut to the module that holds it. `importlib.import_module` counts,
    by its constant argument or by the constant head of an f-string.
    """
    found: set[str] = set()
    for node in module.nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = module.folder.split(".")
                above = above[: len(above) - node.level + 1]
                source = ".".join([*above, source] if source else above)
            found.update(f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and _called(node) in LATE_IMPORTS:
            found.update(_named_by(node.args[0], tree))
    return {_module_of(name, tree) for name in found}


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _named_by(argument: ast.expr, tree: Tree) -> Iterator[str]:
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        yield argument.value
    elif isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
        head = str(argument.values[0].value)
        yield from (name for name in tree if name.startswith(head))


def _module_of(name: str, tree: Tree) -> str:
    while name not in tree and name.startswith("batchr1."):
        name = name.rpartition(".")[0]
    return name


def is_command(node: ast.AST) -> bool:
    """Tell a command of click: its options are its parameters, its docstring is its help."""
    decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return any(re.search(r"\b(command|group)\(", decorator) for decorator in decorators)


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Walk a module's functions, click's commands excepted."""
    for name, node in module.definitions:
        if isinstance(node, Function) and not is_command(node):
            yield name, node


def docstrings(module: Module) -> Iterator[tuple[str, str]]:
    """Walk a module's docstrings with the names of what they describe."""
    for name, node in [(module.name, module.tree), *module.definitions]:
        text = ast.get_docstring(node)
        if text and not is_command(node):
            yield name, text


def first_line(docstring: str) -> str:
    """Take a docstring's first line; a sentence that runs over is taken to its paragraph's end."""
    line = docstring.split("\n", 1)[0]
    if line.endswith((".", "?", "!", ":", "`")):
        return line
    return docstring.split("\n\n", 1)[0].replace("\n", " ")
