"""Units behind a number, and words that are dropped.

A unit is a product of powers of base units with a factor, exactly: 1 km/h = 5/18 m/s. Currencies
and percent are units of their own. Counted things (`12 apples`) are no unit and say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token, word_set

MAX_WORDS = 8  # of what is dropped behind a number


@dataclass(frozen=True, slots=True)
class Unit:
    """Powers of base units, sorted by name, and their factor."""

    powers: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)


NO_UNIT = Unit()
PERCENT = Unit((("percent", 1),))
DEGREE = Unit((("degree", 1),))

# dimension: name=factor …; a name stands for its plural too
_TABLE = """
m: m=1 meter=1 metre=1 km=1000 kilometer=1000 kilometre=1000 cm=1/100 centimeter=1/100
m: centimetre=1/100
m: mm=1/1000 millimeter=1/1000 millimetre=1/1000 dm=1/10 nm=1/1000000000 inch=127/5000
m: inches=127/5000 in=127/5000
m: foot=381/1250 feet=381/1250 ft=381/1250 yard=1143/1250 yd=1143/1250 mile=201168/125 mi=201168/125
s: s=1 sec=1 second=1 ms=1/1000 millisecond=1/1000 min=60 minute=60 h=3600 hr=3600
s: hour=3600 day=86400
s: week=604800
month: month=1 year=12 yr=12
g: g=1 gram=1 kg=1000 kilogram=1000 kilo=1000 mg=1/1000 milligram=1/1000 ton=1000000 tonne=1000000
g: lb=45359237/100000 lbs=45359237/100000 pound-mass=45359237/100000 oz=45359237/1600000
g: ounce=45359237/1600000
litre: L=1 l=1 liter=1 litre=1 ml=1/1000 mL=1/1000 milliliter=1/1000 millilitre=1/1000
gallon: gallon=1 gal=1 quart=1/4 pint=1/8 cup=1/16
usd: USD=1 dollar=1 cent=1/100 ¢=1/100
eur: EUR=1 euro=1 €=1
gbp: GBP=1 £=1
pound: pound=1
yen: JPY=1 yen=1 ¥=1
inr: INR=1 rupee=1 ₹=1 Rs=1
cny: CNY=1 RMB=1 yuan=1 元=1
krw: KRW=1 won=1 ₩=1
rub: RUB=1 ruble=1 rouble=1 ₽=1
chf: CHF=1 franc=1
percent: percent=1 percentage=1 pct=1 %=1
degree: degree=1 deg=1 circ=1 °=1
radian: radian=1 rad=1
newton: N=1 newton=1 kN=1000
joule: J=1 joule=1 kJ=1000
watt: W=1 watt=1 kW=1000
volt: V=1 volt=1
ampere: A=1 amp=1 ampere=1
ohm: ohm=1 Omega=1 kOmega=1000 MOmega=1000000
pascal: Pa=1 pascal=1 kPa=1000
hertz: Hz=1 hertz=1
coulomb: coulomb=1 mC=1/1000 μC=1/1000000 nC=1/1000000000
farad: farad=1 mF=1/1000 μF=1/1000000 nF=1/1000000000 pF=1/1000000000000
tesla: tesla=1
calorie: cal=1 calorie=1 kcal=1000
mole: mol=1 mole=1
kelvin: K=1 kelvin=1
celsius: C=1 celsius=1 Celsius=1
fahrenheit: F=1 fahrenheit=1 Fahrenheit=1
era: AD=1 CE=1
era-before: BC=1 BCE=1
ev: eV=1 electronvolt=1
byte: B=1 byte=1 KB=1000 MB=1000000 GB=1000000000
"""
_UNITS: dict[str, tuple[str, Fraction]] = {}
for _line in _TABLE.strip().splitlines():
    _dimension, _, _names = _line.partition(": ")
    for _entry in _names.split():
        _name, _, _factor = _entry.rpartition("=")
        _UNITS[_name] = (_dimension, Fraction(_factor))
_PREFIXES = {"giga": 9, "mega": 6, "kilo": 3, "milli": -3, "micro": -6, "nano": -9, "pico": -12}
_LETTERS = {"G": 9, "M": 6, "k": 3, "m": -3, "μ": -6, "n": -9, "p": -12}
_PREFIXED_NAMES = word_set(
    "meter metre second gram liter litre newton joule watt volt ampere amp ohm pascal hertz mole "
    "coulomb farad tesla electronvolt byte calorie"
)
_PREFIXED = word_set(
    "GHz MHz kHz GW MW mW GJ MJ mJ MN mN GV MV kV mV μV kA mA μA nA GPa MPa mPa GeV MeV keV meV "
    "mmol kmol μm μs μg μL ns ps ng"
)
for _name in _PREFIXED_NAMES:
    for _prefix, _power_of_ten in _PREFIXES.items():
        _dimension, _factor_of_one = _UNITS[_name]
        _UNITS.setdefault(
            _prefix + _name, (_dimension, _factor_of_one * Fraction(10) ** _power_of_ten)
        )
for _name in _PREFIXED:
    _dimension, _factor_of_one = _UNITS[_name[1:]]
    _UNITS[_name] = (_dimension, _factor_of_one * Fraction(10) ** _LETTERS[_name[0]])
# dimension: what it is in others, and the factor
_DERIVED: dict[str, tuple[dict[str, int], Fraction]] = {
    "newton": ({"g": 1, "m": 1, "s": -2}, Fraction(1000)),
    "joule": ({"g": 1, "m": 2, "s": -2}, Fraction(1000)),
    "watt": ({"g": 1, "m": 2, "s": -3}, Fraction(1000)),
    "pascal": ({"g": 1, "m": -1, "s": -2}, Fraction(1000)),
    "hertz": ({"s": -1}, Fraction(1)),
    "volt": ({"g": 1, "m": 2, "s": -3, "ampere": -1}, Fraction(1000)),
    "ohm": ({"g": 1, "m": 2, "s": -3, "ampere": -2}, Fraction(1000)),
    "coulomb": ({"ampere": 1, "s": 1}, Fraction(1)),
    "litre": ({"m": 3}, Fraction(1, 1000)),
}
_MILES = {"mph": ("mile", "hour"), "kmh": ("km", "h"), "kph": ("km", "h")}

# Words behind a number that multiply it.
MULTIPLIERS = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
# A text behind a number that holds one of these is not dropped: it says something else about it.
_SAYS_MORE = word_set(
    "or and not no to than least most under over below above between minus plus "
    "times less more except except "
    "without nor half quarter third hundred thousand million billion trillion "
    "dozen either neither if st nd rd th root power"
)
_LEADS = word_set(
    "the answer is final a an total of result value equals equal approximately "
    "approx about exactly around "
    "roughly only so thus therefore hence it that we get have there are will be sum area length"
)


def is_unit(name: str) -> bool:
    """Tell whether two letters or more are a unit by themselves."""
    return len(name) > 1 and (_find(name) is not None or name in _MILES)


def is_symbol(name: str) -> bool:
    """Whether a name is a unit's symbol.

    Capitals count in it: MJ, mJ.
    """
    return len(name) <= 3 and _find(name) is not None


def may_be_product(name: str) -> bool:
    """Whether letters are a prefixed unit, or symbols: mA, kN."""
    return name in _PREFIXED


def unit_of(tokens: Sequence[Token]) -> Unit | None:
    """Read the unit of some tokens; None for words that are none.

    Raises `GiveUpError` for the rest.
    """
    powers: dict[str, int] = {}
    factor, sign, raised, known = Fraction(1), 1, 1, 0
    words: list[str] = []
    tokens, at = _with_micro(tokens), 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        text = token.text.strip("\\")
        if text in ("/", "per") or (text == "a" and known):
            sign = -1
        elif text in ("square", "sq", "squared", "cubic", "cubed", "cu"):
            wanted = 2 if text.startswith("s") else 3
            if text.endswith("ed") and powers:
                last = next(reversed(powers))
                powers[last] *= wanted
            else:
                raised = wanted
        elif text == "}" and [t.text for t in tokens[at : at + 1]] == ["{"]:
            sign = -1  # the denominator of a fraction
        elif text in ("cdot", "*", ".", "(", ")", "{", "}", ",", "text", "frac", "dfrac"):
            continue
        elif text in _MILES:
            for name, power in zip(_MILES[text], (1, -1), strict=True):
                dimension, size = _UNITS[name]
                powers[dimension] = powers.get(dimension, 0) + power
                factor *= size**power
            known += 1
        elif (found := _find(text)) is not None and token.kind != "num":
            power, at = _power(tokens, at)
            power *= sign * raised
            powers[found[0]] = powers.get(found[0], 0) + power
            factor *= found[1] ** power
            raised, known = 1, known + 1
        elif token.text == "^" and words and not known:
            at = _power(tokens, at - 1)[1]  # units^2
        elif text == "^" and at < len(tokens) and tokens[at].text in ("circ", "{"):
            continue
        elif token.kind in ("word", "letters"):
            words.append(text.lower())
        else:
            raise GiveUpError(f"behind a number: {text[:20]}")
    if words and _SAYS_MORE & set(words):
        raise GiveUpError("words behind a number")
    if len(words) > MAX_WORDS:
        raise GiveUpError("many words behind a number")
    if not known or (words and known < len(words)):
        return None
    if abs(factor.numerator).bit_length() + factor.denominator.bit_length() > 400:
        raise GiveUpError("a unit to a high power")
    return _in_base_units(powers, factor)


def _with_micro(tokens: Sequence[Token]) -> list[Token]:
    r"""Join `\mu` and the unit behind it, and `k` with `\Omega`."""
    found: list[Token] = []
    for index, token in enumerate(tokens):
        if found and found[-1].text == "mu":
            found[-1] = replace(token, text=f"μ{token.text}", gap=found[-1].gap)
        elif found and token.text == "Omega" and found[-1].text in ("k", "M"):
            found[-1] = replace(token, text=f"{found[-1].text}Omega")
        elif token.text != "mu" or begins_micro(tokens, index):
            found.append(token)
        else:
            found.append(replace(token, text="micro"))
    return found


def begins_micro(tokens: Sequence[Token], at: int) -> bool:
    r"""Whether `\mu` is the prefix of the unit behind it."""
    unit = tokens[at + 1] if at + 1 < len(tokens) else None
    if unit is None or unit.kind not in ("word", "letters"):
        return False
    return _find(f"μ{unit.text}") is not None


def _in_base_units(powers: dict[str, int], factor: Fraction) -> Unit:
    found: dict[str, int] = {}
    for name, power in powers.items():
        parts, size = _DERIVED.get(name, ({name: 1}, Fraction(1)))
        factor *= size**power
        for part, times in parts.items():
            found[part] = found.get(part, 0) + times * power
    return Unit(tuple(sorted((name, power) for name, power in found.items() if power)), factor)


def _find(name: str) -> tuple[str, Fraction] | None:
    for one in (name, name.lower() if len(name) > 2 else name):
        if one in _UNITS:
            return _UNITS[one]
        if len(one) > 3 and one.endswith("s") and one[:-1] in _UNITS:
            return _UNITS[one[:-1]]
    return None


def _power(tokens: Sequence[Token], at: int) -> tuple[int, int]:
    """Read the power behind a unit, and its end.

    It may be `^2`, `^{-1}`, or `2` in `m2`.
    """
    texts = [t.text for t in tokens[at : at + 6]]
    if texts[:1] == ["^"]:
        inside = [t for t in texts[1:] if t != "{"]
        sign = -1 if inside[:1] == ["-"] else 1
        digits = inside[1:2] if sign < 0 else inside[:1]
        if digits and digits[0].isdigit() and len(digits[0]) == 1:
            braces = "{" in texts[1:2]
            return sign * int(digits[0]), at + 2 + (sign < 0) + 2 * braces
        raise GiveUpError("a unit to a power")
    if texts[:1] and texts[0] in ("2", "3") and tokens[at].gap == 0:
        return int(texts[0]), at + 1
    return 1, at


def is_lead(words: Sequence[str]) -> bool:
    """Whether words before an answer only lead to it."""
    return bool(words) and all(word.lower() in _LEADS for word in words)
