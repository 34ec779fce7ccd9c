"""One condition of a policy: a CEL expression, and which fields it reads without asking whether they are known.

Pure. CEL lets null slip through `!`, `!=` and `||`: a missing zip would decline a ride, a missing precaution accept
one. So the expression's own words are read for the fields that they mention, and a rule that mentions a field which is
null in this request does not decide. `known(x)`, `yes(x)`, `no(x)` and `default(x, value)` of a plain field ask, and
are fine.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import cel

Path = tuple[str, ...]

LONGEST_LOOP: Final = 1000  # elements; CEL can't be interrupted, and everybody waits for it
_LONGEST_PATH: Final = 16
LONGEST: Final = 2048  # characters; a chain of 20,000 terms crashes the CEL library
GUARDS: Final[Mapping[str, Callable[..., Any]]] = {
    "known": lambda value: value is not None,
    "yes": lambda value: value is True,
    "no": lambda value: value is False,
    "default": lambda value, otherwise: otherwise if value is None else value,
}
_FUNCTIONS: Final = frozenset(
    {"contains", "startsWith", "endsWith", "size", "int", "uint", "double", "string", "min", "max", *GUARDS}
)
_MACROS: Final = frozenset({"all", "exists", "exists_one", "map", "filter"})
_WORDS: Final = frozenset({"true", "false", "null", "in"})
_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+ | //[^\n]*)
  | (?P<raw>[bB]?[rR][bB]?(?:\"{3}.*?\"{3} | '{3}.*?'{3} | "[^"\n]*" | '[^'\n]*'))
  | (?P<text>[bB]?(?:\"{3}.*?\"{3} | '{3}.*?'{3} | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*'))
  | (?P<number>\d[\w.]*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PLAIN_TEXT: Final = re.compile(r"""(["'])([A-Za-z_]\w*)\1""")


class BadExpression(ValueError):
    """The expression can't be used; the text says why and is fit for the policy's author."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled condition. `mentions` are the fields that it reads unasked, `asks` those behind a guard, `defaults` of
    them those that go on being read; `loops` says whether it goes through a list's elements."""

    source: str
    mentions: frozenset[Path]
    asks: frozenset[Path]
    defaults: frozenset[Path]
    loops: bool
    program: cel.Program = field(repr=False, compare=False)

    @property
    def reads(self) -> frozenset[Path]:
        """Every field that it names."""
        return self.mentions | self.asks

    def evaluate(self, context: cel.Context) -> bool:
        """True or False; BadExpression where CEL fails or answers something else."""
        try:
            result = self.program.execute(context)
        except Exception as error:  # noqa: BLE001 - it raises many kinds, with values in their text; each means: held
            raise BadExpression(f"CEL failed ({type(error).__name__})") from None
        if not isinstance(result, bool):
            raise BadExpression(f"CEL answered a {type(result).__name__}, not true or false")
        return result


def parse(source: str, variables: Iterable[str], whole: Iterable[str]) -> Expression:
    """Compile and look through an expression; BadExpression names what is wrong.

    `variables` are the names that it may read; those in `whole` must be followed by a field, because reading them
    whole would read fields that nobody named.
    """
    if len(source) > LONGEST:
        raise BadExpression(f"is longer than {LONGEST} characters; put long lists under [lists]")
    try:
        program = cel.compile(source)
    except ValueError as error:
        raise BadExpression(_syntax(str(error))) from None
    found = _Reading(_tokens(source))
    allowed = set(variables)
    if found.bound & allowed:
        raise BadExpression(f"names a loop variable {_listed(found.bound & allowed)}, which means something else")
    named = {path[0] for path in found.mentions | found.asks}
    unknown = (named | set(program.variables())) - allowed - found.bound
    if unknown:
        raise BadExpression(f"reads {_listed(unknown)}; there are {_listed(allowed)}")
    unread = set(program.variables()) - named - found.bound
    if unread:
        raise BadExpression(f"reads {_listed(unread)} in a way that can't be followed")
    if found.nests:
        raise BadExpression("has a loop inside a loop, which may take very long")
    if found.maps > 1:
        raise BadExpression("maps more than once, which may take very much memory")
    bare = {path[0] for path in found.mentions | found.asks if len(path) == 1} & set(whole)
    if bare:
        raise BadExpression(f"reads {_listed(bare)} as a whole; name a field, such as {min(bare)}.some_field")
    functions = {name for name in program.functions() if name.isidentifier() and not name.startswith("_")}
    if functions - _FUNCTIONS:
        raise BadExpression(f"calls {_listed(functions - _FUNCTIONS)}; there are {_listed(_FUNCTIONS)}")
    if any(len(path) > _LONGEST_PATH for path in found.mentions | found.asks):
        raise BadExpression(f"names a field more than {_LONGEST_PATH} levels deep")
    return Expression(
        source, frozenset(found.mentions), frozenset(found.asks), frozenset(found.defaults), bool(found.bound), program
    )


class _Reading:
    """Walks the tokens once and collects field paths and the names that macros bind."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self.mentions: set[Path] = set()
        self.asks: set[Path] = set()
        self.defaults: set[Path] = set()
        self.bound: set[str] = set()
        self.nests = False
        self.maps = 0
        inside = -1
        for at, token in enumerate(tokens):
            if token.isidentifier() and token not in _WORDS and self._token(at - 1) != ".":
                self._name(at)
            elif token in _MACROS and self._token(at - 1) == "." and self._token(at + 1) == "(":
                self.bound.add(self._token(at + 2))
                self.nests |= at < inside
                self.maps += token == "map"  # noqa: S105 - a word of CEL
                inside = max(inside, self._closing(at + 1))
        self.mentions = {path for path in self.mentions if path[0] not in self.bound}

    def _closing(self, opening: int) -> int:
        """The index of the parenthesis that closes the one at `opening`."""
        depth = 0
        for at in range(opening, len(self._tokens)):
            depth += {"(": 1, ")": -1}.get(self._tokens[at], 0)
            if depth == 0:
                return at
        return len(self._tokens)

    def _token(self, at: int) -> str:
        return self._tokens[at] if 0 <= at < len(self._tokens) else ""

    def _name(self, start: int) -> None:
        if self._token(start + 1) == "(":
            return
        path, end = self._path(start)
        guard = self._token(start - 2) if self._token(start - 1) == "(" else ""
        guarded = guard in GUARDS and self._token(start - 3) != "." and self._token(end) in {")", ","}
        (self.asks if guarded else self.mentions).add(path)
        if guarded and guard == "default":
            self.defaults.add(path)

    def _path(self, start: int) -> tuple[Path, int]:
        """The longest plain path from here, and the index of the token behind it."""
        path = [self._tokens[start]]
        at = start + 1
        while True:
            text = _PLAIN_TEXT.fullmatch(self._token(at + 1))
            if self._token(at) == "." and self._token(at + 2) != "(":
                path.append(self._token(at + 1))
                at += 2
            elif self._token(at) == "[" and text and self._token(at + 2) == "]":
                path.append(text.group(2))
                at += 3
            else:
                return tuple(path), at


def _tokens(source: str) -> list[str]:
    return [match.group() for match in _TOKEN.finditer(source) if match.lastgroup != "space"]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _syntax(error: str) -> str:
    """The library's own words: where in the expression it stopped, and what it expected there."""
    text = error.partition("ERROR: <input>:")[2].splitlines() or ["0:0: Syntax error"]
    line, _, rest = text[0].partition(":")
    column, _, message = rest.partition(":")
    return f"is not CEL, line {line}, column {column}:{message}"
