"""Reads config files of upstream's schema without running them.

A config is a Python file of assignments, inherited through ``_base_``. The upstream stack imports it; here its syntax
tree is evaluated instead, and only what configs use is understood: literals, arithmetic, names defined above,
``dict()``, ``max()`` and their like, unpacking, ``{{_base_.key}}`` for a value of the base. So a config that somebody
sends is data, not code. Merging follows mmcv 1.5: dicts merge key by key, anything else is replaced, ``_delete_=True``
drops what the base had. A name that begins with two underscores stays in its file.
"""

from __future__ import annotations

import ast
import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from uniad.errors import UserError

DELETE = "_delete_"
BASE = "_base_"
# What a config may hold; more is a mistake or an attack. A config of ours has 13 kB, 900 values, 8 levels and 4 files.
MAX_BYTES = 1 << 20
MAX_VALUE = 100_000  # characters and values in a value, those counted twice that stand there twice
MAX_DEPTH = 50
MAX_BITS = 256  # of a whole number
MAX_FILES = 50
MAX_WORK = 3_000_000  # values looked at while a config is read with all that it inherits: two seconds; ours take 20,000
_EVALUATION = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)


class ConfigError(UserError, ValueError):
    """A config file asks for what native does not have. The message names file, key and what is supported."""


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_CALLS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (dict, list, tuple, set, int, float, str, bool, len, min, max, sum, abs, round, sorted)
}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: "; did you mean 'x'?" or nothing."""
    match = get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def in_place_of(own: Any, value: Any) -> Any:
    """``value`` for a key that the file has as ``own``. A folder written with a slash keeps it: names are put behind it."""
    folder = isinstance(own, str) and isinstance(value, str) and own.endswith("/")
    return f"{value}/" if folder and value and not value.endswith("/") else value


class _Effort:
    """What reading one config may still cost."""

    def __init__(self) -> None:
        self.files, self.work = MAX_FILES, MAX_WORK


def too_much(value: Any, effort: _Effort) -> str:
    """Why a value is none of a config, or nothing. Parts that stand in several places count in each of them."""
    left, whole = MAX_VALUE, [(value, 0)]
    while whole:
        part, depth = whole.pop()
        left -= 1
        effort.work -= 1
        if isinstance(part, (str, bytes)):
            left -= len(part)
        elif isinstance(part, int):
            if part.bit_length() > MAX_BITS:
                return f"a whole number of more than {MAX_BITS} bits is none of a config"
        elif isinstance(part, (dict, list, tuple, set)):
            if depth == MAX_DEPTH:
                return f"a value of more than {MAX_DEPTH} levels is none of a config"
            if len(part) > left:
                left = -1
            elif isinstance(part, dict):
                whole.extend((item, depth + 1) for pair in part.items() for item in pair)
            else:
                whole.extend((item, depth + 1) for item in part)
        if left < 0:
            return f"a value of more than {MAX_VALUE} parts is none of a config"
        if effort.work < 0:
            return "this config takes more work to read than any that is one"
    return ""


class _Evaluator:
    """Evaluates one file's statements. ``variables`` grows as assignments are read."""

    def __init__(self, path: Path, base: dict[str, Any], pinned: dict[str, Any], effort: _Effort | None = None):
        self.path = path
        self.effort = effort or _Effort()
        self.base = base
        self.pinned = pinned
        self.variables: dict[str, Any] = {}

    def fail(self, node: ast.AST, why: str) -> NoReturn:
        raise ConfigError(f"{self.path}, line {getattr(node, 'lineno', '?')}: {why}")

    def run(self, tree: ast.Module) -> dict[str, Any]:
        for statement in tree.body:
            try:
                self.statement(statement)
            except ConfigError:
                raise
            except RecursionError:
                self.fail(statement, "nests too deeply to be read")
            except _EVALUATION as error:
                self.fail(statement, f"cannot be evaluated: {error}")
        return self.variables

    def statement(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign):
            value = self.value(statement.value)
            for target in statement.targets:
                self.assign(target, value)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self.assign(statement.target, self.value(statement.value))
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            pass  # a docstring
        else:
            kind = type(statement).__name__.lower()
            self.fail(statement, f"{kind} is not supported in a config; write assignments only")

    def assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            # A pinned value takes the place of the file's own, so all that the file derives from it follows.
            self.variables[target.id] = in_place_of(value, self.pinned[target.id]) if target.id in self.pinned else value
        elif isinstance(target, (ast.Tuple, ast.List)):
            if not isinstance(value, (tuple, list)) or len(target.elts) != len(value):
                self.fail(target, f"cannot unpack {value!r} into {len(target.elts)} names")
            for part, item in zip(target.elts, value):
                self.assign(part, item)
        else:
            self.fail(target, "only plain names can be assigned in a config")

    def value(self, node: ast.expr) -> Any:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            self.fail(node, f"{ast.unparse(node)!r} is not supported in a config; use literals, arithmetic and dict()")
        value = method(node)
        why = too_much(value, self.effort)
        if why:
            self.fail(node, why)
        return value

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id not in self.variables:
            hint = nearest(node.id, self.variables)
            if node.id in self.base:
                hint = f"; it is the base's: write {{{{_base_.{node.id}}}}}"
            self.fail(node, f"{node.id!r} is not defined above{hint}")
        return self.variables[node.id]

    def _items(self, nodes: Sequence[ast.expr]) -> list[Any]:
        out: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                out.extend(self.value(node.value))
            else:
                out.append(self.value(node))
        return out

    def _list(self, node: ast.List) -> list[Any]:
        return self._items(node.elts)

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._items(node.elts))

    def _set(self, node: ast.Set) -> Any:
        reference = self.base_reference(node)
        return set(self._items(node.elts)) if reference is None else self.base_value(node, reference)

    def base_reference(self, node: ast.Set) -> list[str] | None:
        """``{{_base_.a.b}}`` parses as a set in a set; returns ["a", "b"], or None for anything else."""
        if len(node.elts) != 1 or not isinstance(node.elts[0], ast.Set) or len(node.elts[0].elts) != 1:
            return None
        names: list[str] = []
        inner = node.elts[0].elts[0]
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        return names[::-1] if isinstance(inner, ast.Name) and inner.id == BASE else None

    def base_value(self, node: ast.AST, names: list[str]) -> Any:
        value: Any = self.base
        for name in names:
            if not isinstance(value, dict) or name not in value:
                hint = nearest(name, value) if isinstance(value, dict) else ""
                self.fail(node, f"the base has no {'.'.join(names)!r}{hint}")
            value = value[name]
        return copy.deepcopy(value)

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values):
            if key is None:
                out.update(self.value(value))
            else:
                out[self.value(key)] = self.value(value)
        return out

    def _binop(self, node: ast.BinOp) -> Any:
        function = _BINARY.get(type(node.op))
        if function is None:
            self.fail(node, f"the operator in {ast.unparse(node)!r} is not supported in a config")
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(node.op, ast.Mult):
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(times, int):
                    if len(sequence) * times > MAX_VALUE:
                        self.fail(node, f"a value of more than {MAX_VALUE} parts is none of a config")
        return self.attempt(node, lambda: function(left, right))

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        function = _UNARY.get(type(node.op))
        if function is None:
            self.fail(node, f"the operator in {ast.unparse(node)!r} is not supported in a config")
        operand = self.value(node.operand)
        return self.attempt(node, lambda: function(operand))

    def _compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for op, comparator in zip(node.ops, node.comparators):
            right = self.value(comparator)
            if type(op) not in _COMPARE:
                self.fail(node, f"{ast.unparse(node)!r} is not supported in a config")
            if not self.attempt(node, lambda op=op, a=left, b=right: _COMPARE[type(op)](a, b)):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _joinedstr(self, node: ast.JoinedStr) -> str:
        return "".join(str(self.value(part)) for part in node.values)

    def _formattedvalue(self, node: ast.FormattedValue) -> str:
        if node.format_spec is not None or node.conversion != -1:
            self.fail(node, "formats inside an f-string are not supported in a config")
        return str(self.value(node.value))

    def _subscript(self, node: ast.Subscript) -> Any:
        container, index = self.value(node.value), self.value(node.slice)
        return self.attempt(node, lambda: container[index])

    def _call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name) or node.func.id not in _CALLS:
            self.fail(node, f"{ast.unparse(node.func)}() is not supported in a config; supported: {', '.join(_CALLS)}")
        args = self._items(node.args)
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            more = self.value(keyword.value) if keyword.arg is None else {keyword.arg: self.value(keyword.value)}
            twice = kwargs.keys() & more
            if twice:
                self.fail(node, f"{', '.join(map(str, sorted(twice)))} given twice")
            kwargs.update(more)
        return self.attempt(node, lambda: _CALLS[node.func.id](*args, **kwargs))

    def attempt(self, node: ast.AST, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except _EVALUATION as error:
            self.fail(node, f"{ast.unparse(node)!r} fails: {error}")


def merge(child: dict[str, Any], base: dict[str, Any], where: str) -> dict[str, Any]:
    """The base with the child's values laid over it. Neither argument is changed."""
    out = dict(base)
    for key, value in child.items():
        if isinstance(value, dict):
            value = dict(value)
            # What the base does not have keeps the word: it may be a part that a child puts where there is something to drop.
            if key not in out or value.pop(DELETE, False):
                out[key] = merge(value, {}, where)
            elif isinstance(out[key], dict):
                out[key] = merge(value, out[key], where)
            else:
                raise ConfigError(
                    f"{where}: {key!r} is a dict here but {type(out[key]).__name__} in the base; "
                    f"add {DELETE}=True to replace it"
                )
        else:
            out[key] = value
    return out


def _read(path: Path, pinned: dict[str, Any], seen: tuple[Path, ...], effort: _Effort) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ConfigError(f"{path}: inherits from itself through {seen[-1].name}")
    effort.files -= 1
    if effort.files < 0:
        raise ConfigError(f"{path}: inherits from more than {MAX_FILES} files")
    tree = _parse(path, f" (named by {seen[-1]})" if seen else "")

    # _base_ comes first because the rest of the file may refer to what it brings.
    base: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(isinstance(t, ast.Name) and t.id == BASE for t in statement.targets):
            for name in _bases(statement, path, effort):
                part = _read(path.parent / name, pinned, (*seen, path), effort)
                twice = sorted(base.keys() & part.keys())
                if twice:
                    raise ConfigError(f"{path}: more than one base sets {', '.join(twice)}; let one inherit the other")
                base.update(part)
    own = _Evaluator(path, base, pinned, effort).run(tree)
    own = {name: value for name, value in own.items() if name != BASE and not name.startswith("__")}  # as upstream's reader
    return merge(own, base, str(path))


def _without_delete(value: Any) -> Any:
    """The value without ``_delete_`` where there was nothing to drop."""
    if isinstance(value, dict):
        return {key: _without_delete(part) for key, part in value.items() if key != DELETE}
    return [_without_delete(part) for part in value] if isinstance(value, list) else value


def _parse(path: Path, by: str) -> ast.Module:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"cannot read config {path}{by}: it is no file")
        with open(path, encoding="utf-8") as handle:
            text = handle.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"no config file {path}{by}{nearest(path.name, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read config {path}: {error}") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path}: more than {MAX_BYTES >> 20} MiB: that is no config")
    try:
        return ast.parse(text, filename=str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: not a config: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ConfigError(f"{path}: not a config: it nests too deeply to be read") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a config: {error}") from None


def _bases(statement: ast.Assign, path: Path, effort: _Effort) -> list[str]:
    """The files that ``_base_`` names."""
    evaluator = _Evaluator(path, {}, {}, effort)
    evaluator.run(ast.Module([statement], []))
    names = evaluator.variables[BASE]
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and "\0" not in name for name in names):
        evaluator.fail(statement, f"{BASE} is a path or a list of paths")
    return list(names)


def parse_override(text: str) -> tuple[list[str], Any]:
    """``model.track.capacity=64`` -> (["model", "track", "capacity"], 64). What is no literal is a string."""
    key, sign, raw = text.partition("=")
    names = key.strip().split(".")
    if not sign or not all(names):
        raise ConfigError(f"override {text!r} is not of the form key.sub=value")
    raw = raw.strip()
    try:
        value = _Evaluator(Path(f"override {text!r}"), {}, {}).value(ast.parse(raw, mode="eval").body)
    except (RecursionError, MemoryError):
        raise ConfigError(f"override {key}=...: its value nests too deeply to be read") from None
    except (SyntaxError, ConfigError, *_EVALUATION):
        words = {"true": True, "false": False, "none": None}
        parts = [words.get(part.strip().lower(), part.strip()) for part in raw.split(",")]
        value = parts[0] if len(parts) == 1 else parts
    return names, value


def _key(node: Any, names: list[str], depth: int, text: str) -> Any:
    """Where ``names[depth]`` stands in a dict or list; a ConfigError where it has no place."""
    name = names[depth]
    if isinstance(node, list):
        if not name.isdigit() or int(name) >= len(node):
            raise ConfigError(f"override {text!r}: {'.'.join(names[:depth])} is a list of {len(node)}, no {name!r}")
        return int(name)
    if not isinstance(node, dict):
        raise ConfigError(f"override {text!r}: {'.'.join(names[:depth])} is {node!r}, it has no parts")
    if depth < len(names) - 1 and name not in node:
        known = nearest(name, node) or f"; known: {', '.join(map(str, node))}"
        raise ConfigError(f"override {text!r}: no {'.'.join(names[: depth + 1])!r} in the config{known}")
    return name


def _set(cfg: dict[str, Any], names: list[str], value: Any, text: str) -> None:
    node: Any = cfg
    for depth in range(len(names)):
        key = _key(node, names, depth, text)
        if depth == len(names) - 1:
            node[key] = in_place_of(node.get(key) if isinstance(node, dict) else node[key], value)
        else:
            node = node[key]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a config file with all that it inherits.

    path: a file of upstream's schema. overrides: ``key.sub=value`` texts, like upstream's ``--cfg-options``.
    An override of a plain variable (``queue_length=3``) also reaches every value that the files derive from it.
    Returns the merged dict; raises ConfigError naming file and line for what it cannot read.
    """
    overrides = list(overrides)
    pairs = [parse_override(text) for text in overrides]
    pinned = {names[0]: value for names, value in pairs if len(names) == 1}
    return override(_without_delete(_read(Path(path), pinned, (), _Effort())), overrides, path)


def override(values: dict[str, Any], overrides: Iterable[str], path: str | Path = "the config") -> dict[str, Any]:
    """A copy of a config's dict with ``key.sub=value`` texts applied. Nothing that was derived from a value follows it."""
    cfg = copy.deepcopy(values)
    for text in overrides:
        names, value = parse_override(text)
        if len(names) == 1 and names[0] not in cfg:
            raise ConfigError(f"override {text!r}: {path} has no {names[0]!r}{nearest(names[0], cfg)}")
        _set(cfg, names, value, text)
    return cfg
