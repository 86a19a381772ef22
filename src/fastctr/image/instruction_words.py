"""Words, quotes and variables of Dockerfile instructions (the Dockerfile reference, docs.docker.com).

Quotes: within '…' everything is literal; within "…" and outside, the escape character makes the next
character literal (within "…" only $, the quote and itself). Variables: $NAME, ${NAME}, ${NAME:-word},
${NAME:+word}, ${NAME-word}, ${NAME+word}, ${NAME:?message}, ${NAME?message}.
"""

from __future__ import annotations

from ..errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["expand", "expand_words", "json_strings", "pairs", "split_words"]

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_SPECIAL = frozenset("@*#?-$!0123456789")


class _Reader:
    """One instruction's text, quotes taken away and variables put in."""

    def __init__(self, text: str, variables: Mapping[str, str] | None, escape: str, keep_quotes: bool) -> None:
        self.text = text
        self.variables = variables
        self.escape = escape
        self.keep = keep_quotes
        self.at = 0

    def fail(self, why: str) -> SpecError:
        return SpecError("change", self.text, why)

    def until(self, stop: str, split: bool = False) -> list[str]:
        """The words up to a character of `stop` (not consumed) or the end; one word unless `split`."""
        words: list[str] = []
        word: list[str] = []
        begun = False
        while self.at < len(self.text):
            c = self.text[self.at]
            if c in stop:
                break
            if split and c.isspace():
                if begun:
                    words.append("".join(word))
                word, begun = [], False
                self.at += 1
                continue
            was = begun
            begun = True
            if c == "'":
                word.append(self.single())
            elif c == '"':
                word.append(self.double())
            elif c == self.escape:
                self.at += 1
                if self.at >= len(self.text):
                    word.append(c)
                    break
                word.append((c if self.keep else "") + self.text[self.at])
                self.at += 1
            elif c == "$" and self.variables is not None:
                value = self.dollar()
                if split and not value and not was and (self.at >= len(self.text) or self.text[self.at].isspace()):
                    begun = False  # an unquoted variable that is empty gives no word
                elif split and any(ch.isspace() for ch in value):
                    parts = value.split()
                    if value[0].isspace() and was:
                        words.append("".join(word))
                        word = []
                    for part in parts[:-1]:
                        words.append("".join(word) + part)
                        word = []
                    word.append(parts[-1] if parts else "")
                    if value[-1].isspace():
                        words.append("".join(word))
                        word, begun = [], False
                else:
                    word.append(value)
            else:
                word.append(c)
                self.at += 1
        if begun:
            words.append("".join(word))
        if split:
            return words
        return ["".join(word)]

    def single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise self.fail("has a ' without an end")
        body = self.text[self.at + 1 : end]
        self.at = end + 1
        return f"'{body}'" if self.keep else body

    def double(self) -> str:
        out = ['"'] if self.keep else []
        self.at += 1
        while self.at < len(self.text):
            c = self.text[self.at]
            if c == '"':
                self.at += 1
                return "".join([*out, '"'] if self.keep else out)
            if c == "$" and self.variables is not None:
                out.append(self.dollar())
                continue
            if c == self.escape and self.at + 1 < len(self.text):
                following = self.text[self.at + 1]
                if following in ('"', "$", self.escape) and not self.keep:
                    out.append(following)
                else:
                    out.append(c + following)
                self.at += 2
                continue
            out.append(c)
            self.at += 1
        raise self.fail('has a " without an end')

    def dollar(self) -> str:
        assert self.variables is not None
        self.at += 1
        if self.at >= len(self.text):
            return "$"
        if self.text[self.at] != "{":
            name = self.name()
            return self.variables.get(name, "") if name else "$"
        self.at += 1
        name = self.name()
        if not name:
            raise self.fail("has ${ without a variable's name")
        if self.at >= len(self.text):
            raise self.fail("has ${ without a }")
        c = self.text[self.at]
        if c == "}":
            self.at += 1
            return self.variables.get(name, "")
        colon = c == ":"
        if colon:
            self.at += 1
        operator = self.text[self.at : self.at + 1]
        if operator not in ("-", "+", "?") or not operator:
            raise self.fail(f'has "${{{name}{c}{operator if colon else ""}", which is not a form of variables')
        self.at += 1
        (word,) = self.until("}")
        if self.at >= len(self.text):
            raise self.fail("has ${ without a }")
        self.at += 1
        value = self.variables.get(name)
        there = bool(value) if colon else value is not None
        if operator == "-":
            return value if there and value is not None else word
        if operator == "+":
            return word if there else ""
        if not there:
            raise self.fail(f"needs the variable {name}: {word or 'it is not set'}")
        return value or ""

    def name(self) -> str:
        start = self.at
        if start < len(self.text) and self.text[start] in _SPECIAL:
            self.at += 1
            return self.text[start]
        while self.at < len(self.text) and self.text[self.at] in _NAME:
            self.at += 1
        return self.text[start : self.at]


def expand(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """One word: quotes taken away, variables put in. Raises SpecError."""
    return _Reader(text, variables, escape, False).until("")[0]


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """Words: as expand(), and split where a blank is outside quotes, also in an unquoted variable's value."""
    return _Reader(text, variables, escape, False).until("", split=True)


def split_words(text: str, escape: str = "\\") -> list[str]:
    """The text's words, split at blanks outside quotes; quotes, escapes and variables stay as they are."""
    return _Reader(text, None, escape, True).until("", split=True)


def json_strings(text: str) -> list[str] | None:
    """The strings of a JSON array, or None if the text is not one (then it is in shell form)."""
    stripped = text.strip()
    if not stripped.startswith("["):
        return None
    import json

    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return value
    return None


def pairs(text: str, keyword: str, escape: str = "\\") -> list[tuple[str, str]]:
    """`key=value …`, or the old form `key the rest`, neither unquoted nor expanded yet. Raises SpecError."""
    words = split_words(text, escape)
    if not words:
        raise SpecError("change", f"{keyword} {text}".strip(), "needs an argument", f"use {keyword} name=value")
    if "=" not in words[0]:
        name, _, rest = text.strip().partition(" ") if " " in text.strip() else text.strip().partition("\t")
        rest = rest.strip()
        if not rest:
            raise SpecError("change", f"{keyword} {text}", "has a name and no value", f"use {keyword} name=value")
        return [(name, rest)]
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise SpecError("change", f"{keyword} {text}", f'has "{word}", which is not name=value')
        found.append((name, value))
    return found
