"""Names, nouns, places, made-up words and the table of synonyms."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

_FOLDER = Path(__file__).parent / "phrasings"


def _bars(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(w.strip() for w in (_FOLDER / name).read_text(encoding="utf-8").strip().split("|")))


def singular(noun: str) -> str:
    """Singular of a regular plural."""
    for end, replacement in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("s", "")):
        if noun.endswith(end):
            return noun[: -len(end)] + replacement
    return noun


def _items() -> tuple[tuple[str, str], ...]:
    pairs = {}
    for entry in (_FOLDER / "items.txt").read_text(encoding="utf-8").split():
        many, _, one = entry.replace("_", " ").partition("/")
        pairs[many] = one or singular(many)
    return tuple(pairs.items())


NAMES = tuple(n.replace("_", " ") for n in dict.fromkeys((_FOLDER / "names.txt").read_text(encoding="utf-8").split()))
ITEMS = _items()
PLACES = _bars("places.txt")
INGREDIENTS = _bars("ingredients.txt")
LENGTHS = ("meters", "m", "cm", "feet", "metres", "inches")

_ONSETS = ("b bl br c ch cl cr d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sc sh sk sl sm sn sp st str t th tr v "
           "w z").split()
_VOWELS = "a e i o u a e i o u ai ea ee oo ou".split()
_CODAS = ("", "", "", "b", "ck", "d", "g", "l", "ll", "m", "n", "nd", "ng", "nk", "p", "r", "rd", "rk", "rt", "sh", "t", "st")


def _made_up() -> tuple[str, ...]:
    rng = Random(20_25)
    words = set()
    while len(words) < 6000:
        word = "".join(
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.choice((1, 2, 2, 2, 3)))
        )
        if 3 <= len(word) <= 11:
            words.add(word)
    return tuple(sorted(words))


MADE_UP = _made_up()


def pick_name(rng: Random) -> str:
    """A first name, now and then a made-up one."""
    return rng.choice(NAMES) if rng.random() < 0.92 else rng.choice(MADE_UP).capitalize()


def pick_noun(rng: Random) -> tuple[str, str]:
    """Plural and singular of a noun, sometimes with an adjective, sometimes made up."""
    if rng.random() < 0.12:
        one = rng.choice(MADE_UP)
        return one + "s", one
    many, one = rng.choice(ITEMS)
    if rng.random() < 0.12:
        adjective = rng.choice(ADJECTIVES)
        return f"{adjective} {many}", f"{adjective} {one}"
    return many, one


def pick_text(rng: Random, slot: str) -> str:
    """A place, an ingredient or a unit."""
    if slot == "place":
        return rng.choice(PLACES) if rng.random() < 0.9 else "the " + rng.choice(MADE_UP)
    if slot == "ingredient":
        return rng.choice(INGREDIENTS) if rng.random() < 0.85 else rng.choice(MADE_UP)
    if slot == "lu":
        return rng.choice(LENGTHS)
    if slot in ("su", "du"):
        return {"su": "km/h", "du": "km"}[slot]
    raise KeyError(f"questions: slot {slot!r} has no value. Give it in the task or correct the template.")


ADJECTIVES = ("red blue green yellow white black small large big tiny old new shiny plain wooden plastic metal paper glass "
              "fresh frozen spare cheap fancy broken used rare striped spotted golden silver round square soft heavy "
              "light purple orange pink brown gray").split()

# phrase -> others that mean the same wherever the phrase stands in the banks
_SYNONYMS: dict[str, str] = {
    "calculate": "compute|work out|find|determine|evaluate|figure out",
    "compute": "calculate|work out|find|determine|evaluate",
    "work out": "calculate|compute|find|figure out|determine",
    "figure out": "calculate|work out|find|determine",
    "determine": "calculate|work out|find|figure out|establish",
    "find": "calculate|work out|determine|get|give|figure out",
    "what is the": "what's the|find the|give the|tell me the|what would be the|i need the|state the|say what the",
    "what's the": "what is the|find the|give me the|tell me the",
    "how many": "how many|what number of|just how many|exactly how many",
    "how much": "how much|what amount|just how much|exactly how much",
    "buys": "purchases|gets|picks up|orders|grabs|takes|chooses|acquires",
    "bought": "purchased|got|picked up|ordered|grabbed|acquired",
    "buy": "purchase|get|pick up|order|take",
    "buying": "purchasing|getting|ordering|picking up",
    "in total": "altogether|in all|all together|all told|overall|in sum",
    "altogether": "in total|in all|all told|overall",
    "in all": "in total|altogether|overall",
    "equally": "evenly|fairly|in equal parts",
    "evenly": "equally|fairly",
    "children": "kids|pupils|students|youngsters",
    "kids": "children|pupils|students",
    "students": "pupils|children|learners",
    "friends": "people|kids|pals|mates|classmates|cousins|buddies",
    "people": "persons|guests|friends|workers|visitors",
    "left over": "remaining|left|not packed|unused|that remain",
    "remaining": "left|left over|still there",
    "gives away": "hands out|donates|parts with|loses|passes on",
    "gave away": "handed out|donated|parted with|lost|passed on",
    "receives": "gets|is given|obtains|is handed|collects",
    "received": "got|was given|obtained|collected",
    "gets": "receives|obtains|is given",
    "travels": "goes|moves|rides|cruises|journeys|rolls along",
    "drives": "travels|goes|rides|motors",
    "every week": "each week|weekly|per week|a week|week after week",
    "each week": "every week|weekly|per week|a week",
    "per week": "a week|each week|every week|weekly",
    "every day": "each day|daily|per day|a day",
    "each day": "every day|daily|per day|a day",
    "per day": "a day|each day|every day|daily",
    "a day": "per day|each day|every day|daily",
    "discount": "discount|reduction|price cut|markdown|rebate",
    "increased by": "raised by|made larger by|put up by|bumped up by|grown by",
    "decreased by": "reduced by|lowered by|cut by|made smaller by|brought down by",
    "reduced by": "decreased by|lowered by|cut by",
    "the sum of": "the total of|the result of adding|the sum of",
    "the difference between": "the gap between|the difference of",
    "the product of": "the result of multiplying|the product of",
    "take away": "subtract|remove|deduct",
    "subtract": "take away|remove|deduct",
    "largest": "biggest|greatest|highest",
    "greatest": "largest|biggest|highest",
    "smallest": "lowest|least",
    "evaluate": "work out|calculate|compute|simplify",
    "convert": "change|turn|express|transform|rewrite",
    "express": "write|give|state|convert",
    "a total of": "|altogether|in all|a total of",
    "average": "average|mean|arithmetic mean",
    "mean of": "average of|arithmetic mean of",
    "rectangular": "rectangular|rectangle-shaped|oblong",
    "each costing": "each priced at|at a price of|costing",
    "apiece": "each|a piece|per piece|per unit",
    "savings": "money saved|nest egg|savings",
    "puts aside": "saves|sets aside|adds|stores away|puts away|deposits",
    "saves": "puts aside|sets aside|puts away|adds|banks|stashes",
    "packed": "put|placed|sorted|packaged|arranged",
    "solve for": "find|work out|determine|give the value of",
    "solve": "solve|work out|resolve",
    "years older than": "years older than|years more than|years ahead of",
    "please": "please||kindly",
    "collected": "gathered|picked|found|collected",
    "sells for": "costs|goes for|is priced at|sells at",
    "is priced at": "costs|sells for|goes for",
    "pays with": "hands over|pays using|gives the cashier|pays with",
    "constant": "steady|even|uniform|fixed|unchanging",
    "steady": "constant|even|uniform|fixed",
    "the next term": "the next number|the following term|the term that comes next|the next entry|the next value",
    "the next number": "the next term|the following number|the number that comes next|the next value",
    "comes next": "is next|follows|should come next|would be next",
    "sequence": "sequence|series|pattern|list|row",
    "ready": "done|set|ready",
    "job": "work|task|job",
    "finish": "complete|get through|be done with|finish",
}


class Synonyms:
    """One pattern over all phrases, longest first."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = {phrase: tuple(others.split("|")) for phrase, others in table.items()}
        longest_first = sorted(self.table, key=len, reverse=True)
        self._pattern = re.compile(r"(?<![\w{])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w}])", re.I)

    def sub(self, replace: Callable[[re.Match[str]], str], text: str) -> str:
        """Replaces each phrase that occurs."""
        return self._pattern.sub(replace, text)


SYNONYMS = Synonyms(_SYNONYMS)
