"""--format: the part of Go's text/template that people use with docker.

Fields `{{.Config.Env}}`, `{{json .}}`, functions (json, join, split, upper, lower, title, trim, len, index,
printf, print, println, eq, ne, not, and, or, truncate, pad), pipes `{{.Names | upper}}`, `{{if}} {{else}} {{end}}`,
`{{range .X}} {{end}}`, `{{with .X}} {{end}}`, `{{- trimming -}}`, `{{/* comments */}}`, text in quotes and
numbers. Values are printed as Go prints them: [a b], map[k:v], <no value>.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "r": "\r"}


class TemplateError(Exception):
    """The text is no template, or asks for what the value does not have."""


class _Missing:
    """A key a map does not have."""


MISSING = _Missing()
Node = tuple["Any", ...]


class Template:
    """A template parsed once: render(value) for each row. Raises TemplateError."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = _split(text)
        self._at = 0
        self._tree, end = self._block(())
        if end is not None:
            raise TemplateError(f"template: unexpected {{{{{end}}}}}")

    def render(self, value: Any) -> str:
        """The text with the value's fields in place of what is in braces."""
        return _render(self._tree, value, value)

    def fields(self) -> list[str]:
        """The fields named at the top level, for the headings of a table."""
        found: list[str] = []
        for kind, *rest in self._tree:
            if kind == "print":
                for command in rest[0]:
                    found += [word[1][-1] for word in command if word[0] == "field" and word[1]]
        return found

    def _block(self, ends: tuple[str, ...]) -> tuple[list[Node], str | None]:
        nodes: list[Node] = []
        while self._at < len(self._parts):
            is_action, text = self._parts[self._at]
            self._at += 1
            if not is_action:
                nodes.append(("text", text))
                continue
            word, _, rest = text.partition(" ")
            if text.startswith("/*"):
                continue
            if word in ("end", "else"):
                if word not in ends:
                    return nodes, text
                return nodes, text
            if word in ("if", "range", "with"):
                nodes.append(self._branch(word, rest))
            else:
                nodes.append(("print", _pipeline(text)))
        if ends:
            raise TemplateError("template: unexpected end: {{end}} is missing")
        return nodes, None

    def _branch(self, word: str, condition: str) -> Node:
        body, end = self._block(("end", "else"))
        otherwise: list[Node] = []
        if end is not None and end.startswith("else"):
            more = end[4:].strip()
            if more.startswith("if "):
                otherwise = [self._branch("if", more[3:])]
            else:
                otherwise, end = self._block(("end",))
        return word, _pipeline(condition), body, otherwise


def _split(text: str) -> list[tuple[bool, str]]:
    """[(is it an action, text)]."""
    parts: list[tuple[bool, str]] = []
    trim = False
    while text:
        before, opened, text = text.partition("{{")
        if trim:
            before = before.lstrip()
        if not opened:
            parts.append((False, before))
            break
        place = _end_of_action(text)
        action, text = text[:place], text[place + 2 :]
        if action.startswith("- "):
            before, action = before.rstrip(), action[2:]
        trim = action.endswith(" -")
        if before:
            parts.append((False, before))
        parts.append((True, action.removesuffix(" -").strip()))
    return parts


def _end_of_action(text: str) -> int:
    quote, at = "", 0
    while at < len(text):
        c = text[at]
        if quote:
            if c == "\\" and quote == '"':
                at += 1
            elif c == quote:
                quote = ""
        elif c in "\"`'":
            quote = c
        elif text.startswith("}}", at):
            return at
        at += 1
    raise TemplateError("template: unclosed action: }} is missing")


def _pipeline(text: str) -> list[list[Node]]:
    """Commands that hand their results on; each is a list of words."""
    words, at = _words(text, 0, "")
    if at != len(text):
        raise TemplateError(f'template: unexpected ")" in {{{{{text}}}}}')
    return _commands(words, text)


def _commands(words: list[Node], text: str) -> list[list[Node]]:
    commands: list[list[Node]] = [[]]
    for word in words:
        if word == ("pipe",):
            commands.append([])
        else:
            commands[-1].append(word)
    if not all(commands):
        raise TemplateError(f"template: missing value in {{{{{text}}}}}")
    return commands


def _words(text: str, at: int, until: str) -> tuple[list[Node], int]:
    found: list[Node] = []
    while at < len(text):
        c = text[at]
        if c.isspace():
            at += 1
        elif c == until:
            return found, at + 1
        elif c == ")":
            return found, at
        elif c == "|":
            found.append(("pipe",))
            at += 1
        elif c == "(":
            inner, at = _words(text, at + 1, ")")
            found.append(("group", _commands(inner, text)))
        elif c in '"`':
            value, at = _string(text, at)
            found.append(("value", value))
        elif c in ".$":
            start = at
            at += 1 if c == "." else 1 + (text[at + 1 : at + 2] == ".")
            while at < len(text) and (text[at] in _WORD or text[at] == "."):
                at += 1
            path = text[start:at]
            if path[0] == "$" and path[1:2] not in ("", "."):
                raise TemplateError(f'template: undefined variable "{path.partition(".")[0]}"')
            names = [part for part in path.lstrip("$").split(".") if part]
            found.append(("root" if path[0] == "$" else "field", names))
        elif c.isdigit() or (c == "-" and text[at + 1 : at + 2].isdigit()):
            start, at = at, at + 1
            while at < len(text) and (text[at].isdigit() or text[at] == "."):
                at += 1
            number = text[start:at]
            found.append(("value", float(number) if "." in number else int(number)))
        elif c in _WORD:
            start = at
            while at < len(text) and text[at] in _WORD:
                at += 1
            name = text[start:at]
            constant = {"true": True, "false": False, "nil": None}
            if name in constant:
                found.append(("value", constant[name]))
            elif name in FUNCTIONS:
                found.append(("call", name))
            else:
                raise TemplateError(f'template: function "{name}" not defined')
        else:
            raise TemplateError(f'template: unexpected "{c}" in {{{{{text}}}}}')
    if until:
        raise TemplateError(f'template: unclosed "(" in {{{{{text}}}}}')
    return found, at


def _string(text: str, at: int) -> tuple[str, int]:
    quote, made, at = text[at], "", at + 1
    while at < len(text):
        c = text[at]
        if c == quote:
            return made, at + 1
        if c == "\\" and quote == '"':
            at += 1
            c = _ESCAPES.get(text[at : at + 1], text[at : at + 1])
        made += c
        at += 1
    raise TemplateError("template: unterminated quoted string")


# ---- rendering


def _render(nodes: list[Node], value: Any, root: Any) -> str:
    made: list[str] = []
    for kind, *rest in nodes:
        if kind == "text":
            made.append(rest[0])
            continue
        result = _evaluate(rest[0], value, root)
        if kind == "print":
            made.append(printed(result))
        elif kind == "range":
            if isinstance(result, dict):
                items = [each for _, each in sorted(result.items())]
            elif result is None or isinstance(result, (list, tuple)):
                items = list(result or ())
            else:
                raise TemplateError(f"template: range can't iterate over {printed(result)}")
            made += [_render(rest[1], item, root) for item in items]
            if not items:
                made.append(_render(rest[2], value, root))
        elif truth(result):
            made.append(_render(rest[1], result if kind == "with" else value, root))
        else:
            made.append(_render(rest[2], value, root))
    return "".join(made)


def _evaluate(commands: list[list[Node]], value: Any, root: Any) -> Any:
    result: Any = MISSING
    for number, (first, *rest) in enumerate(commands):
        arguments = [_operand(word, value, root) for word in rest]
        if number:
            arguments.append(result)
        if first[0] == "call":
            function = FUNCTIONS[first[1]]
            try:
                result = function(*arguments)
            except TemplateError:
                raise
            except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
                raise TemplateError(f"template: {first[1]}: {error}") from None
        elif arguments:
            raise TemplateError("template: a value is not a function and cannot have arguments")
        else:
            result = _operand(first, value, root)
    return result


def _operand(word: Node, value: Any, root: Any) -> Any:
    kind, what = word
    if kind == "value":
        return what
    if kind == "group":
        return _evaluate(what, value, root)
    if kind == "call":
        return FUNCTIONS[what]()
    found = root if kind == "root" else value
    for name in what:
        if found is MISSING or found is None:
            return MISSING
        if not isinstance(found, dict):
            raise TemplateError(f"template: can't evaluate field {name}: the value has no fields")
        if name not in found and getattr(found, "strict", False):
            raise TemplateError(f"template: can't evaluate field {name}; there are {', '.join(found)}")
        found = found.get(name, MISSING)
    return found


class Row(dict["str", "Any"]):
    """A line of a table: a field it does not have is a mistake, not a missing value."""

    strict = True


def printed(value: Any) -> str:
    """As Go's fmt prints it with %v."""
    if value is MISSING:
        return "<no value>"
    if value is None:
        return "<nil>"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{name}:{printed(each)}" for name, each in sorted(value.items())) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(printed(each) for each in value) + "]"
    return str(value)


def truth(value: Any) -> bool:
    """Whether {{if}} takes it: not false, 0, nil or empty."""
    return value is not MISSING and bool(value)


def to_json(value: Any) -> str:
    """On one line, as Go's encoding/json writes it but for its escapes of <, > and &."""
    import json

    return json.dumps(None if value is MISSING else value, separators=(",", ":"), ensure_ascii=False)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, MISSING)
        elif value is None or value is MISSING:
            raise TemplateError("template: index of nil")
        else:
            if not isinstance(key, int) or not -1 < key < len(value):
                raise TemplateError(f"template: error calling index: {key} is out of range")
            value = value[key]
    return value


def _printf(form: str, *values: Any) -> str:
    return form.replace("%v", "%s").replace("%q", '"%s"') % tuple(
        value if isinstance(value, (int, float)) and not isinstance(value, bool) else printed(value) for value in values
    )


def _and(*values: Any) -> Any:
    return next((each for each in values if not truth(each)), values[-1])


def _or(*values: Any) -> Any:
    return next((each for each in values if truth(each)), values[-1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "join": lambda items, by: by.join(printed(item) for item in items or ()),
    "split": lambda text, by: str(text).split(by),
    "upper": lambda text: printed(text).upper(),
    "lower": lambda text: printed(text).lower(),
    "title": lambda text: printed(text).title(),
    "trim": lambda text: printed(text).strip(),
    "len": lambda value: len(value or ()),
    "index": _index,
    "print": lambda *values: " ".join(printed(value) for value in values),
    "println": lambda *values: " ".join(printed(value) for value in values) + "\n",
    "printf": _printf,
    "eq": lambda left, *others: any(left == other for other in others),
    "ne": lambda left, right: left != right,
    "lt": lambda left, right: left < right,
    "gt": lambda left, right: left > right,
    "not": lambda value: not truth(value),
    "and": _and,
    "or": _or,
    "truncate": lambda text, width: printed(text)[:width],
    "pad": lambda text, left, right: (" " * left + printed(text) + " " * right) if text else "",
}
