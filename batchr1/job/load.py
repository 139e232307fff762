"""Job YAML → `JobSpec`: read, override, expand, validate.

Complaints name the file, the key, what was given and what is allowed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from batchr1.errors import JobError
from batchr1.job.spec import JobSpec
from batchr1.records import VERIFY_KINDS


@dataclass(frozen=True, slots=True)
class Overrides:
    """Changes to a job file by the command line."""

    variant: str | None = None
    output: str | None = None
    limit: int | None = None
    settings: tuple[str, ...] = ()  # key.path=value


def load_job(
    path: Path, overrides: Overrides = Overrides(), *, date: dt.date | None = None
) -> JobSpec:
    """Read a job file.

    Relative paths in it are relative to its folder; `--output` and `--set output.path=…` are
    relative to the working directory. Raises `JobError` with one line for each thing that is wrong.
    """
    raw = _read_yaml(path)
    from_cli = _override(raw, overrides)
    variables = {"variant": _variant_of(raw), "ds": (date or dt.date.today()).isoformat()}
    _expand_paths(raw, path, variables, from_cli)
    try:
        return JobSpec.model_validate(raw)
    except ValidationError as exc:
        raise JobError(explain(exc, path)) from exc


def explain(exc: ValidationError, where: object, section: Sequence[str] = ()) -> str:
    """Write a line for each wrong key beneath `section`."""
    return "\n".join(_explain(where, section, group) for group in _by_key(exc))


_SECRET = re.compile(
    r"(^|_)(SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY)S?(_|$)",
    re.IGNORECASE,
)


MAX_YAML_VALUES = 100_000
"""Values of a job file, at most, with those that its aliases stand for."""
MAX_YAML_BYTES = 2**22


def _inner(node: yaml.Node) -> list[yaml.Node]:
    """The nodes directly below a node."""
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return []


class _Loader(yaml.SafeLoader):
    """YAML 1.1 whose repeated keys are errors.

    Aliases are counted as if written out: a few of them may stand for billions of values.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if node is not None and not is_alias:
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(n), 1) for n in _inner(node))
        size = 0 if node is None else self._sizes.get(id(node), 1)
        if size > MAX_YAML_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"aliases stand for more than {MAX_YAML_VALUES:,} values", mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is not plain text", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise JobError(f"{path}: there is no such job file. Give the path of a YAML file.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        reason = (exc.strerror or "").lower() if isinstance(exc, OSError) else "not UTF-8 text"
        raise JobError(
            f"{path}: the job file cannot be read ({reason}). Give the path of a YAML file."
        ) from exc
    if len(text) > MAX_YAML_BYTES:
        raise JobError(
            f"{path}: too large for a job file (got {len(text):,} characters, need at most "
            f"{MAX_YAML_BYTES:,}). Give the path of a YAML file."
        )
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise JobError(
            f"{path}:{line}: not valid YAML ({exc.problem}). Correct that line."
        ) from exc
    except RecursionError as exc:
        raise JobError(f"{path}: nested too deep to be a job file. Correct it.") from exc
    except yaml.YAMLError as exc:
        raise JobError(f"{path}: not valid YAML ({str(exc).splitlines()[0]}). Correct it.") from exc
    if not isinstance(raw, dict):
        raise JobError(
            f"{path}: a job file is a mapping of keys (got {_kind(raw)}). `batchr1 init "
            "DATA` writes one."
        )
    return raw


def _override(raw: dict[str, Any], overrides: Overrides) -> set[tuple[str, ...]]:
    """Apply the command line's overrides in place.

    Returns the key paths that came from there.
    """
    pairs: list[tuple[tuple[str, ...], Any]] = []
    if overrides.variant is not None:
        model = raw.get("model")
        if isinstance(model, dict):
            for key in ("path", "repo", "served", "revision"):
                model.pop(key, None)
        pairs.append((("model", "variant"), overrides.variant))
    if overrides.output is not None:
        pairs.append((("output", "path"), overrides.output))
    if overrides.limit is not None:
        pairs.append((("input", "limit"), overrides.limit))
    for setting in overrides.settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise JobError(
                f"--set {setting}: not key.path=value (got {setting!r}). Write --set sampling.n=4."
            )
        key_path = tuple(key.split("."))
        pairs.append((key_path, _typed(key_path, text)))
    for key_path, value in pairs:
        target = raw
        for depth, part in enumerate(key_path[:-1]):
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                where = ".".join(key_path[: depth + 1])
                raise JobError(
                    f"--set {'.'.join(key_path)}: {where} is not a mapping (got "
                    f"{_kind(target)}). "
                    f"Set {where} itself."
                )
        target[key_path[-1]] = value
    return {key_path for key_path, _ in pairs}


def _typed(key_path: Sequence[str], text: str) -> Any:
    """Parse the value of a --set.

    true and false are such where the spec takes them. It stays text where the spec takes text, as a
    template is no YAML mapping. Elsewhere it is YAML.
    """
    kinds = _kinds_at(key_path)
    if bool in kinds and text in {"true", "false"}:
        return text == "true"
    structured = kinds & {list, dict} and text.startswith(("[", "{"))
    if str in kinds and not structured:
        return None if text == "null" and type(None) in kinds else text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        got = "" if key_path[0] in _UNSHOWN else f" (got {_without_userinfo(text)!r})"
        raise JobError(
            f"--set {'.'.join(key_path)}: the value is not valid YAML{got}. Quote it."
        ) from exc
    if float in kinds and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _kinds_at(key_path: Sequence[str]) -> set[Any]:
    """List the plain types that the spec takes at a key.

    Empty for a key that it does not know.
    """
    model: Any = JobSpec
    for part in key_path[:-1]:
        field = model.model_fields.get(part)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return set()
    field = model.model_fields.get(key_path[-1])
    return _plain_types(field.annotation) if field else set()


def _plain_types(annotation: Any) -> set[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain_types(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return {kind for branch in get_args(annotation) for kind in _plain_types(branch)}
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    return {origin or annotation}


def _variant_of(raw: Mapping[str, Any]) -> str | None:
    """Name the model for `{{ variant }}`.

    It is the variant's name, else the last part of the model's path or name.
    """
    model = raw.get("model")
    if not isinstance(model, dict):
        return None
    name = model.get("variant") or model.get("repo") or model.get("served") or model.get("path")
    return str(name).rstrip("/").rpartition("/")[2].lower() if name else None


def _expand_paths(
    raw: dict[str, Any],
    job: Path,
    variables: Mapping[str, str | None],
    from_cli: set[tuple[str, ...]],
) -> None:
    """Expand every path of the job in place.

    `${NAME}` and `{{ name }}` are replaced, and local paths made absolute.
    """
    verify = raw.get("verify")
    if isinstance(verify, dict) and ":" in str(verify.get("kind")):
        verify.setdefault("path", ".")
    places = (
        ("model", "path"),
        ("model", "adapter"),
        ("input", "path"),
        ("input", "exclude"),
        ("output", "path"),
        ("verify", "path"),
        ("prompting", "template"),
    )
    for section, key in places:
        holder = raw.get(section)
        if not isinstance(holder, dict) or holder.get(key) is None:
            continue
        base = Path.cwd() if (section, key) in from_cli else job.resolve().parent
        where = f"{job}: {section}.{key}"
        value = holder[key]
        if isinstance(value, str):
            holder[key] = _expand(value, base, where, variables)
        elif isinstance(value, list):
            holder[key] = [
                _expand(v, base, where, variables) if isinstance(v, str) else v for v in value
            ]


def _expand(text: str, base: Path, where: str, variables: Mapping[str, str | None]) -> str:
    def variable(match: re.Match[str]) -> str:
        if match[1] not in variables:
            known = " or ".join(f"{{{{ {name} }}}}" for name in sorted(variables))
            raise JobError(f"{where}: unknown variable (got {match[0]}, need {known}). Correct it.")
        return (
            variables[match[1]] or match[0]
        )  # no variant: validation will say that no model is given

    def environment(match: re.Match[str]) -> str:
        if _SECRET.search(match[1]):
            raise JobError(
                f"{where}: paths hold no secrets, they are written to logs and records (got "
                f"{match[0]}). "
                "Use another variable."
            )
        value = os.environ.get(match[1])
        if value is None:
            raise JobError(
                f"{where}: the environment variable {match[1]} is not set. Set it, or write "
                f"the "
                f"path out."
            )
        return value

    text = re.sub(r"\{\{\s*(\w+)\s*\}\}", variable, text)
    text = re.sub(r"\$\{(\w+)\}", environment, text)
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", text):
        return text
    if not text:
        raise JobError(f"{where}: the path is empty. Name a file or folder.")
    return os.path.normpath(base / Path(text).expanduser())


def _by_key(exc: ValidationError) -> list[list[ErrorDetails]]:
    """The complaints of each key: a union has one for each branch."""
    groups: dict[str, list[ErrorDetails]] = {}
    for error in exc.errors():
        groups.setdefault(".".join(_location(error)), []).append(error)
    return list(groups.values())


def _location(error: ErrorDetails) -> list[str]:
    return [str(part) for part in error["loc"] if not _is_union_branch(str(part))]


def _explain(path: object, section: Sequence[str], errors: Sequence[ErrorDetails]) -> str:
    """Turn pydantic's complaints about one key into one line of ours."""
    error = errors[0]
    loc = [*section, *_location(error)]
    key = ".".join(loc) or "the job"
    got = _kind(error["input"]) if loc[:1] and loc[0] in _UNSHOWN else _show(error["input"])
    match error["type"]:
        case "extra_forbidden":
            allowed = _fields_at(loc[:-1])
            return f"{path}: {key}: unknown key. {_hint(loc[-1], allowed)}"
        case "missing":
            return f"{path}: {key}: this key is required. Add it."
        case "value_error":
            return f"{path}: {key}: {error['msg'].removeprefix('Value error, ')}. Correct it."
        case "string_pattern_mismatch" if loc == ["verify", "kind"]:
            kinds = ", ".join(VERIFY_KINDS)
            close = difflib.get_close_matches(str(error["input"]), VERIFY_KINDS, n=1, cutoff=0.6)
            hint = f"Did you mean {close[0]}?" if close else "Correct it."
            return (
                f"{path}: {key}: wrong value (got {got}, need {kinds}, or "
                f"package.module:function). {hint}"
            )
        case "string_pattern_mismatch":
            return (
                f"{path}: {key}: wrong value (got {got}, need letters, digits, dot, dash, "
                f"underscore). Correct it."
            )
        case _:
            need = " or ".join(
                dict.fromkeys(_NEEDS.get(e["type"]) or _need(e["msg"]) for e in errors)
            )
            return f"{path}: {key}: wrong value (got {got}, need {need}). Correct it."


_UNSHOWN = {"on_finish"}  # the arguments of a command may hold a secret

_NEEDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "string_too_short": "text of one character or more",
}


def _need(message: str) -> str:
    need = message.removeprefix("Input should be ").removeprefix("a valid ").replace("'", "")
    return f"a number {need}" if need.startswith(("greater", "less")) else need


def _is_union_branch(part: str) -> bool:
    """Whether part of a location names a tried branch of a union.

    pydantic adds those: 'list[str]', 'dict[str,str]', "literal['all']".
    """
    return "[" in part or part in {"str", "int", "float", "bool"}


def _hint(name: str, allowed: Sequence[str]) -> str:
    """Name the key that was probably meant, or all that are allowed."""
    homes = [
        f"{section}.{name}" for section in JobSpec.model_fields if name in _fields_at([section])
    ]
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)
    if homes or close:
        return f"Did you mean {' or '.join(homes or close)}?"
    return f"Allowed here: {', '.join(allowed)}."


def _fields_at(loc: Sequence[str]) -> list[str]:
    model: type[BaseModel] = JobSpec
    for part in loc:
        field = model.model_fields.get(part)
        if (
            field is None
            or not isinstance(field.annotation, type)
            or not issubclass(field.annotation, BaseModel)
        ):
            return []
        model = field.annotation
    return list(model.model_fields)


def _kind(value: object) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "true/false",
        int: "a number",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _without_userinfo(text: str) -> str:
    """user:password@ in a URL is shown to nobody."""
    return re.sub(r"://[^/@\s]*@", "://…@", text)


def _show(value: object) -> str:
    value = _without_userinfo(value) if isinstance(value, str) else value
    text = (
        f"{_kind(value)} {value!r}"
        if not isinstance(value, (dict, list, type(None)))
        else _kind(value)
    )
    return text if len(text) <= 80 else text[:77] + "…"
