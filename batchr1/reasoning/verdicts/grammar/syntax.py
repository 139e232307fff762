"""Expression trees of tokens.

Trees are those of `trees`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from batchr1.reasoning.verdicts.grammar.families import INTEGER
from batchr1.reasoning.verdicts.grammar.lookahead import (
    FRACTIONS,
    derivative_in,
    mixed_at,
    name_at,
    subscript_at,
)
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token, word_set
from batchr1.reasoning.verdicts.grammar.trees import Node, call, size_of, sum_of, symbol
from batchr1.reasoning.verdicts.grammar.units import begins_micro, is_unit, may_be_product

MAX_DEPTH = 60
MAX_TOKENS = 800
MAX_OPERATORS = 150  # of one expression: its tree is as deep, and functions on it recurse
MAX_WRITTEN_OUT = 2000  # nodes of all sums and products in it

FUNCTIONS = word_set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth ln exp lg cis"
)
_STARTS = ("sqrt", "sin", "cos", "tan", "log", "exp", "ln", "pi")  # of letters run together
_PLAIN_FUNCTIONS = FUNCTIONS | {"log", "sqrt", "abs"}
_BINOMIALS = {"binom", "dbinom", "tbinom"}
_TIMES = {"cdot", "times", "ast"}
_GREEK = word_set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota "
    "kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar"
)
_OVER = {"overline", "overrightarrow", "vec", "hat", "widehat", "bar", "tilde", "angle", "triangle"}
_VECTORS = ("vec ", "overrightarrow ", "hat ", "widehat ")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class ExpressionParser:
    """Parses one expression; stops, without complaint, before what is none."""

    def __init__(self, tokens: Sequence[Token], *, stop_at_units: bool = True) -> None:
        if len(tokens) > MAX_TOKENS:
            raise GiveUpError("too many tokens")
        self._tokens = tokens
        self._stop_at_units = stop_at_units
        self._depth = 0
        self._operators = 0
        self._written_out = 0
        self._functions = 0  # that are open: degrees in their arguments are angles
        self.at = 0

    @property
    def rest(self) -> list[Token]:
        """Tokens behind what was parsed; some were cut in two."""
        return list(self._tokens[self.at :])

    def expression(self) -> Node:
        """A sum of terms. Raises `GiveUpError` where none begins here."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise GiveUpError("nested too deeply")
        node = self._signed_term()
        while (sign := self._sign()) is not None:
            if self._at_end_after_sign():
                break
            self.at += 1
            self._count_operator()
            term = self._term()
            node = ("add", node, term if sign == "+" else (sign, term))
        self._depth -= 1
        return node

    def _count_operator(self) -> None:
        self._operators += 1
        if self._operators > MAX_OPERATORS:
            raise GiveUpError("many terms")

    def _at_end_after_sign(self) -> bool:
        return self.at + 1 >= len(self._tokens)

    def _signed_term(self) -> Node:
        sign = self._sign()
        if sign is None:
            return self._term()
        self.at += 1
        self._count_operator()
        term = self._term() if self._sign() is None else self._signed_term()
        return term if sign == "+" else (sign, term)

    def _sign(self) -> str | None:
        """The operator of a sum that stands here."""
        token = self._peek()
        if token is None:
            return None
        if token.kind == "op" and token.text in "+-":
            return "+" if token.text == "+" else "neg"
        if token.kind == "cmd" and token.text in ("pm", "mp"):
            return token.text
        return None

    def _term(self) -> Node:
        node = self._factor()
        while True:
            token = self._peek()
            if token is None:
                return node
            self._count_operator()
            if self._is_times(token):
                if token.text == "times" and node[0] == "sym" and node[1].startswith(_VECTORS):
                    raise GiveUpError("a cross product")
                self.at += 1
                node = ("mul", node, self._signed_factor())
            elif token.text in ("/", "div") and token.kind in ("op", "cmd"):
                self.at += 1
                node = ("div", node, self._signed_factor())
            elif self._begins_factor(token):
                node = ("mul", node, self._factor())
            else:
                self._operators -= 1
                return node

    def _is_times(self, token: Token) -> bool:
        return (token.kind == "cmd" and token.text in _TIMES) or (
            token.kind == "op" and token.text == "*"
        )

    def _signed_factor(self) -> Node:
        sign = self._sign()
        if sign is None:
            return self._factor()
        self.at += 1
        factor = self._factor()
        return factor if sign == "+" else (sign, factor)

    def _begins_factor(self, token: Token) -> bool:
        """Whether a product goes on with this token, without a sign between."""
        match token.kind:
            case "num":
                before = self._tokens[self.at - 1]
                if before.text == "!":
                    return token.gap == 0
                return before.kind != "num" and token.gap < 2
            case "letters":
                return token.gap < 2 and not (self._stop_at_units and self._is_said(token))
            case "word":
                return len(token.text) == 1 and not self._stop_at_units
            case "op":
                return token.text in ("(", "{", "[") and token.gap < 2
            case "cmd" if self._stop_at_units and self._is_micro():
                return False
            case "cmd":
                return token.gap < 2 and (
                    token.text in FUNCTIONS | FRACTIONS | _BINOMIALS | _GREEK | _OVER | {INTEGER}
                    or token.text in ("sqrt", "pi", "log", "lfloor", "lceil", "infty", "lvert")
                )
        return False

    def _is_said(self, token: Token) -> bool:
        """Whether letters behind a number are a unit, or words about it."""
        if self._tokens[self.at - 1].kind != "num" or token.text in _PLAIN_FUNCTIONS | {"pi"}:
            return False
        if may_be_product(token.text) and not token.gap:
            return False
        return is_unit(token.text) or len(token.text) > (2 if token.gap else 4)

    def _is_micro(self) -> bool:
        r"""Whether `\mu` and text are a unit behind a number."""
        if self._tokens[self.at].text != "mu" or not begins_micro(self._tokens, self.at):
            return False
        return self._tokens[self.at + 1].kind == "word" or self._tokens[self.at].gap > 0

    def _factor(self) -> Node:
        """A primary with its powers and factorials."""
        node = self._primary()
        while (token := self._peek()) is not None and token.kind == "op":
            self._count_operator()
            if token.text == "^" and not self._is_degree():
                self.at += 1
                node = ("pow", node, self._exponent())
            elif token.text == "^" and self._functions:
                self.at += 2 if self._tokens[self.at + 1].text == "circ" else 4
                node = ("mul", node, ("div", ("const", "pi"), ("num", Fraction(180))))
            elif token.text == "!":
                is_double = [t.text for t in self._tokens[self.at + 1 : self.at + 2]] == ["!"]
                self.at += 1 + is_double
                node = ("fn", "fac2", node) if is_double else ("fact", node)
            else:
                self._operators -= 1
                break
        return node

    def _is_degree(self) -> bool:
        rest = [t.text for t in self._tokens[self.at + 1 : self.at + 4]]
        return rest[:1] == ["circ"] or rest[:2] == ["{", "circ"]

    def _exponent(self) -> Node:
        token = self._peek()
        if token is None:
            raise GiveUpError("an exponent that is not there")
        if token.kind == "op" and token.text == "-":
            self.at += 1
            self._count_operator()
            return ("neg", self._exponent())
        if token.kind == "letters":  # x^ab is x^a b
            return self._one_letter()
        if token.kind == "num" and len(token.text) > 1 and token.text.isdigit():
            self.at += 1  # x^10 as people mean it; LaTeX sets only its first digit high
            return ("num", token.value)
        return self._primary()

    def _one_letter(self) -> Node:
        self._cut(1)
        return self._letters()

    def _primary(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise GiveUpError("nested too deeply")
        try:
            token = self._peek()
            if token is None:
                raise GiveUpError("an operand that is not there")
            match token.kind:
                case "num":
                    return self._number()
                case "letters":
                    return self._letters()
                case "word" if len(token.text) == 1 and token.text.isascii():
                    return self._letters()
                case "cmd":
                    return self._command()
                case "op" if token.text in _CLOSING:
                    return self._group(token.text)
                case "op" if token.text in ("|", r"\|"):
                    return self._absolute()
            raise GiveUpError(f"{token.kind} {token.text[:20]}")
        finally:
            self._depth -= 1

    def _number(self) -> Node:
        token = self._tokens[self.at]
        self.at += 1
        if self._peek() is not None and self._tokens[self.at].text == "_":
            raise GiveUpError("a number with a base")
        fraction, length = mixed_at(self._tokens, self.at, token)
        self.at += length
        return ("num", token.value) if fraction is None else ("num", (token.value or 0) + fraction)

    def _letters(self) -> Node:
        token = self._tokens[self.at]
        name = token.text
        if name in _PLAIN_FUNCTIONS:
            self.at += 1
            return self._function(name)
        if name in ("pi", "infinity", "inf", "oo"):
            self.at += 1
            return ("const", "pi" if name == "pi" else "inf")
        if len(name) > 4 and not name.startswith(_STARTS):
            raise GiveUpError(f"a word {name[:20]}")
        known = next((one for one in _STARTS if name.startswith(one)), name[0])
        self._cut(len(known))
        if known == "pi":
            self.at += 1
            return ("const", "pi")
        if len(known) > 1:
            return self._letters()
        self.at += 1
        if known == "C" and (chosen := self._chosen()) is not None:
            return chosen
        subscript = self._read(subscript_at)
        return ("sym", known + subscript) if subscript else symbol(known)

    def _chosen(self) -> Node | None:
        """Read `(10, 3)` behind a C, as binomial coefficients are written."""
        ahead = self._tokens[self.at : self.at + 5]
        if [token.text for token in ahead[::2]] != ["(", ",", ")"]:
            return None
        if not all(token.kind in ("num", "letters") for token in ahead[1::2]):
            return None
        self.at += 1
        above = self.expression()
        self.at += 1
        return ("binom", above, self._until(")"))

    def _cut(self, length: int) -> None:
        """Cut the letters at this place in two tokens, by length."""
        token = self._tokens[self.at]
        if len(token.text) > length:
            changed = list(self._tokens)
            changed[self.at] = Token("letters", token.text[length:])
            changed.insert(self.at, Token("letters", token.text[:length], token.gap))
            self._tokens = changed

    def _command(self) -> Node:
        token = self._tokens[self.at]
        name = token.text
        self.at += 1
        if name in FRACTIONS and (found := derivative_in(self._tokens[self.at : self.at + 6])):
            self.at += 6
            return found
        if name in FRACTIONS:
            return ("div", self._argument(), self._argument())
        if name in _BINOMIALS:
            return ("binom", self._argument(), self._argument())
        if name == "sqrt":
            return self._root()
        if name in ("sum", "prod"):
            return self._sum(name)
        if name in FUNCTIONS or name == "log":
            return self._function(name)
        if name == "pi":
            return ("const", "pi")
        if name in ("infty", INTEGER):
            return ("const", "inf") if name == "infty" else ("sym", INTEGER)
        if name in _GREEK:
            return ("sym", "\\" + name + self._read(subscript_at))
        if name in ("lfloor", "lceil"):
            return self._enclosed(name, "r" + name[1:])
        if name in ("lvert", "vert"):
            return ("abs", self._until("rvert" if name == "lvert" else "vert"))
        if name in _OVER:
            return ("sym", f"{name} {self._read(name_at)}")
        raise GiveUpError(f"the command {name}")

    def _sum(self, name: str) -> Node:
        """A sum or product between whole bounds, written out."""
        self._expect("_")
        self._expect("{")
        token = self._peek()
        if token is None or token.kind != "letters":
            raise GiveUpError("a sum without an index")
        index = self._letters()
        self._expect("=")
        low = self._until("}")
        self._expect("^")
        high = self._argument()
        found = sum_of(name, index, low, high, self._term())
        self._written_out += size_of(found)
        if self._written_out > MAX_WRITTEN_OUT:
            raise GiveUpError("long sums")
        return found

    def _read(self, look: Callable[[Sequence[Token], int], tuple[str, int]]) -> str:
        """Take the text that a look-ahead finds here."""
        text, self.at = look(self._tokens, self.at)
        return text

    def _expect(self, text: str) -> None:
        token = self._peek()
        if token is None or token.text != text:
            raise GiveUpError(f"something else than {text}")
        self.at += 1

    def _enclosed(self, name: str, closing: str) -> Node:
        return ("fn", name[1:], self._until(closing))

    def _until(self, closing: str) -> Node:
        node = self.expression()
        self._expect(closing)
        return node

    def _root(self) -> Node:
        token = self._peek()
        index: Node = ("num", Fraction(2))
        if token is not None and token.text == "[":
            self.at += 1
            index = self._until("]")
        return ("root", index, self._argument())

    def _argument(self) -> Node:
        """Read a command's argument: a group, or one digit or letter."""
        token = self._peek()
        if token is None:
            raise GiveUpError("an argument that is not there")
        if token.kind == "num" and len(token.text) > 1 and token.text.isdigit():
            changed = list(self._tokens)  # \frac12 is a half
            digits = [Token("num", c, 0, Fraction(int(c)), None, 1) for c in token.text]
            changed[self.at : self.at + 1] = digits
            self._tokens = changed
        if self._tokens[self.at].kind == "num":
            token = self._tokens[self.at]
            self.at += 1
            return ("num", token.value)
        if self._tokens[self.at].kind == "letters":
            return self._one_letter()
        return self._primary()

    def _function(self, name: str) -> Node:
        """A function with its power, its base and its argument."""
        power = base = None
        for _ in range(2):
            token = self._peek()
            if token is not None and token.text == "^" and power is None:
                self.at += 1
                power = self._exponent()
            elif token is not None and token.text == "_" and base is None:
                self.at += 1
                base = self._argument()
        self._functions += 1
        argument = self._function_argument()
        self._functions -= 1
        node = call(name, base, argument)
        if power is None:
            return node
        if power == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan"):
            return ("fn", f"arc{name}", argument)
        return ("pow", node, power)

    def _function_argument(self) -> Node:
        token = self._peek()
        if token is None:
            raise GiveUpError("an argument that is not there")
        if token.text in ("(", "{", "["):
            return self._primary()
        node = self._factor()
        while (token := self._peek()) is not None:
            is_function = token.text in _PLAIN_FUNCTIONS and token.kind in ("cmd", "letters")
            if token.text in ("(", "[") or is_function or not self._begins_factor(token):
                break
            node = ("mul", node, self._factor())
        return node

    def _group(self, opening: str) -> Node:
        self.at += 1
        return self._until(_CLOSING[opening])

    def _absolute(self) -> Node:
        sign = self._tokens[self.at].text
        self.at += 1
        node = self.expression()
        self._expect(sign)
        return ("abs", node)

    def _peek(self) -> Token | None:
        return self._tokens[self.at] if self.at < len(self._tokens) else None
