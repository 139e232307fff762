r"""Mixed languages: traces that leave the languages of their prompt.

Two ways of mixing are found, neither of them by a model:

- scripts: letters of a script that the prompt neither uses nor asks for. A quotation, or what is in
  brackets or also in the prompt, is mentioned, not mixed in. Latin letters and single Greek ones
  are mathematics anywhere.
- function words: words that are frequent in one language and rare in all others separate languages
  of one script. So a Spanish prompt with an English trace is found, and German clauses in an
  English one.

Code, formulas and links are taken out first. A language that the prompt names ("translate into
Russian") is asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

MIN_FOREIGN = {
    "han": 2,
    "kana": 2,
    "hangul": 2,
    "cyrillic": 5,
    "greek": 5,
    "arabic": 3,
    "hebrew": 3,
    "indic": 3,
    "thai": 5,
    "other": 3,
}  # letters of a script that are a mix; in other scripts:
MIN_FOREIGN_LETTERS = 10
TOPIC_FACTOR = 5  # times as many where the prompt is about a country whose names are written so
MENTION_CHARS = 24  # the longest that counts as a mention, in quotation marks or brackets
MIN_FUNCTION_WORDS = 6  # of a language that was not asked for,
FUNCTION_WORD_SHARE = 0.06  # and their share of all function words found
MAIN_SHARE = 0.6  # or of fewer, when they are most of those found:
MIN_MAIN_WORDS = 5
MIN_LATIN_WORDS = 15  # of three letters, that answer a prompt in another script
MIN_PROMPT_WORDS = 2  # function words from which a prompt's language is known

_SCRIPTS = {
    "han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "kana": "\u3041-\u30ff\u31f0-\u31ff",
    "hangul": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3",
    "cyrillic": "\u0400-\u052f",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff",
    "hebrew": "\u05d0-\u05ea",
    "indic": "\u0900-\u0dff",
    "thai": "\u0e01-\u0eff",
    "other": "\u0530-\u058f\u0f00-\u10ff\u1200-\u139f\u1780-\u17ff",
}
_RUN = re.compile("|".join(f"(?P<{name}>[{letters}]+)" for name, letters in _SCRIPTS.items()))
_NOT_LATIN = re.compile(r"[^\x00-\u036f\u1e00-\u1eff\u2000-\u2fff\u3000-\u303f\ufe00-\U0001ffff]+")
_GREEK_WORD = 5  # letters; shorter ones are symbols

# What is not language: code, formulas, commands, links. Bounded, so that what is never closed costs
# linear time.
_NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]{1,200}`|\$\$.{1,999}?\$\$|\$[^$\n]{1,300}\$"
    r"|\\\(.{1,500}?\\\)|\\\[.{1,999}?\\\]"
    r"|\\begin\{(\w{1,12}\*?)\}.{1,999}?\\end\{\1\}|\\(?!text|mbox)[A-Za-z]+"
    r"|https?://\S+|<[^<>\n]{1,80}>",
    re.DOTALL,
)
_CODE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]{1,200}`|\\(?:text|mbox)\s?\{[^{}]{1,24}\}|https?://\S+"
    r"|<[^<>\n]{1,80}>",
    re.DOTALL,
)
_NAMED_BEFORE = re.compile(  # in Arabic, the word …
    r"\b(?:Arabic|Persian|Hebrew|Greek|Russian|Chinese|Mandarin|Japanese|Korean|Sanskrit|Hindi"
    r"|Thai)(?: [a-z]{1,12}){0,3},? [^\x00-\u036f\s]{1,24}"
)
_MENTION = re.compile(
    rf"[\"“„«‹「『《][^\"“”„»›」』》\n]{{1,{MENTION_CHARS}}}[\"”“»›」』》]"
    rf"|[(\[（【][^()\[\]（）【】\n]{{1,{MENTION_CHARS}}}[)\]）】]"
    rf"|(?<!\w)['‘][^'’\n]{{1,{MENTION_CHARS}}}['’](?!\w)"
)

# Frequent in one language, and no word of any other of these, nor of mathematics or code.
_WORDS = {
    "english": "the of that this which would because what there should from they it's let's where "
    "each we're i'll "
    "therefore whether wait okay need means since here but and not have has it if you can how "
    "when by",
    "spanish": "los las una pero entonces está también porque según más cuando donde esto esta "
    "este ahora debemos el sus muy pues así tiene tienen puede pueden aunque nadie eso ya "
    "necesitamos vamos hay cada tenemos cómo qué cuántos cuántas cuál quién",
    "french": "les une dans avec donc alors cette sont aussi parce être nous vous c'est mais aux "
    "ainsi puis peut avons pas leur leurs ces ceux vers même soit ensuite tous toutes doit lorsque "
    "puisque dont celui celle sur qu'il qu'on n'est d'un d'une l'on s'il j'ai d'abord "
    "où chaque très faut combien quel quelle",
    "german": "und der das ist nicht wir ein eine einen dass mit für auf sich wenn aber oder auch "
    "haben sind werden zu dem wird kann muss nur noch nach über durch dieser diese dieses kein "
    "keine zum zur vom "
    "müssen wie jetzt dann wann welche wieviel",
    "italian": "che della sono quindi perché questo anche gli nel alla dobbiamo abbiamo più così "
    "ogni ora allora cioè di è dal dei degli delle dello sulla può poi forse perciò "
    "quanti quante quale",
    "portuguese": (
        "não uma são então isso você pelo pela temos muito agora precisamos quando "
        "em ao foi também já só há às nem pelos pelas nesse outra outras "
        "dois "
        "quantos quantas qual"
    ),
    "dutch": (
        "het een niet dat zijn maar ook voor deze naar dus wordt moeten hebben kunnen omdat "
        "hoeveel welke"
    ),
    "polish": "jest nie się że oraz więc dla ale tylko jako mamy możemy ponieważ",
    "turkish": "bir ve için bu değil olarak çünkü ise olan daha",
    "swedish": "och att det är inte som för på eftersom måste alltså",
    "vietnamese": "không là của và được một có các cho này",
    "indonesian": "yang dan untuk dengan adalah tidak ini itu karena jadi",
}
_LANGUAGE_OF = {word: language for language, words in _WORDS.items() for word in words.split()}
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_LATIN_WORD = re.compile(r"(?<![\w\\])[A-Za-z\u00c0-\u024f]{3,}")
_FUNCTION_NAMES = {
    "sin",
    "cos",
    "tan",
    "cot",
    "log",
    "exp",
    "lim",
    "max",
    "min",
    "sup",
    "inf",
    "gcd",
    "lcm",
    "mod",
    "det",
}
_WORD_LETTERS = {"han": 1.5, "kana": 2.0, "hangul": 2.5}  # letters that make a word; 5 elsewhere

# Names of languages, and what is allowed when the prompt says them.
_NAMED = {
    "chinese|mandarin|cantonese|中文|汉语|漢語|hanzi|pinyin": ("han",),
    "japanese|kanji|hiragana|katakana|日语|日文|日本語": ("han", "kana"),
    "korean|hangul|韩语|韩文|한국어": ("hangul", "han"),
    "russian|ukrainian|bulgarian|serbian|cyrillic|俄语|俄文|русск": ("cyrillic",),
    "greek|希腊语": ("greek",),
    "arabic|persian|farsi|urdu|阿拉伯语": ("arabic",),
    "hebrew|yiddish|希伯来语": ("hebrew",),
    "hindi|sanskrit|bengali|tamil|telugu|marathi|印地语": ("indic",),
    "thai|lao|泰语": ("thai",),
    "english|英语|英文|inglés|anglais|englisch|inglese|английск": ("english",),
    "spanish|español|西班牙语": ("spanish",),
    "french|français|法语": ("french",),
    "german|deutsch|德语": ("german",),
    "italian|italiano|意大利语": ("italian",),
    "portuguese|português|葡萄牙语": ("portuguese",),
    "dutch": ("dutch",),
    "polish": ("polish",),
    "turkish": ("turkish",),
    "swedish": ("swedish",),
    "vietnamese|越南语": ("vietnamese",),
    "indonesian|malay": ("indonesian",),
    r"any language|foreign|multilingual|languages|translat\w+|翻译|traduc\w+|übersetz\w+": ("*",),
}
# Countries, cultures and authors whose names may well stand in their own script.
_TOPICS = {
    "han": (
        r"china|beijing|shanghai|taiwan|hong kong|confuci|taois|daois|dynasty|li bai|du "
        r"fu|mao\b|sun tzu"
    ),
    "kana": r"japan|tokyo|kyoto|osaka|haiku|samurai|shogun|anime|manga",
    "hangul": r"korea|seoul|joseon|k-?pop",
    "cyrillic": (
        r"russia|soviet|moscow|ukrain|bulgari|serbi|tolsto|dosto|pushkin|chekhov|lenin|stalin"
        r"|tsar"
    ),
    "greek": r"greece|greek|athen|homer|plato|aristot|byzant|new testament",
    "arabic": r"arab|islam|qur|koran|egypt|iraq|iran|persia|syria|saudi|muslim",
    "hebrew": r"israel|jewish|jews|torah|bible|old testament",
    "indic": r"india|hindu|buddh|veda|yoga|delhi|nepal|lanka",
    "thai": r"thailand|bangkok|laos",
    "other": r"armenia|georgia|ethiopia|tibet|cambodia|khmer|myanmar|burma",
}
_TOPIC_NAMES = {
    name: re.compile(rf"\b(?:{words})", re.IGNORECASE) for name, words in _TOPICS.items()
}
_TOPIC_NAMES["han"] = re.compile(
    rf"\b(?:{_TOPICS['han']}|{_TOPICS['kana']}|{_TOPICS['hangul']})", re.IGNORECASE
)
_NAMES = [(re.compile(names, re.IGNORECASE), allowed) for names, allowed in _NAMED.items()]


def is_mixed(prompt: str, *parts: str | None) -> bool:
    """Tell whether a part of a trace leaves its prompt's languages.

    Linear in the texts' length.
    """
    texts = [(_prose(part), part) for part in parts if part]
    if not texts:
        return False
    asked = {name for names, allowed in _NAMES if names.search(prompt) for name in allowed}
    if "*" in asked:
        return False
    question = _Prompt.of(prompt)
    return any(
        _has_foreign_script(question, text, whole, asked)
        or _has_foreign_words(question, text, asked)
        for text, whole in texts
    )


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Languages of a prompt: scripts, and languages by function words.

    A prompt that is all formulas has neither.
    """

    text: str
    scripts: frozenset[str]
    languages: frozenset[str]
    is_formula: bool

    @classmethod
    def of(cls, text: str) -> _Prompt:
        prose = _NOT_PROSE.sub(" ", text)
        words = len(
            [word for word in _LATIN_WORD.findall(prose) if word.lower() not in _FUNCTION_NAMES]
        )
        letters = Counter(
            {
                name: count
                for name, count in _letters(prose).items()
                if name != "greek" or count >= 10
            }
        )
        # A script that the prompt only cites (a name, a character) is none that it is written in.
        own = {
            name
            for name, count in letters.items()
            if 10 * count / _WORD_LETTERS.get(name, 5) >= 3 * words
        }
        counts = _function_words(prose)
        found = {name for name, count in counts.items() if count >= MIN_PROMPT_WORDS} or set(counts)
        own |= {"han", "kana"} if "kana" in own else set()
        return cls(text, frozenset(own), frozenset(found), not own and not words)


def _has_foreign_script(prompt: _Prompt, text: str, whole: str, asked: set[str]) -> bool:
    """Whether `text` has letters of a foreign script.

    Those in formulas of `whole` count too, but not in code.
    """
    letters: Counter[str] = Counter()
    if not whole.isascii():
        said = _NAMED_BEFORE.sub(" ", _MENTION.sub(" ", _CODE.sub(" ", whole)))
        letters = _letters(said, besides=prompt.text)
    allowed = {*prompt.scripts, *asked}
    if prompt.is_formula and letters:
        allowed.add(letters.most_common(1)[0][0])
        allowed |= {"han", "kana"} if "kana" in letters else set()
    for name, count in letters.items():
        least = MIN_FOREIGN.get(name, MIN_FOREIGN_LETTERS)
        if name not in allowed and count >= least:
            least *= TOPIC_FACTOR if _TOPIC_NAMES[name].search(prompt.text) else 1
            if count >= least:
                return True
    if not prompt.scripts or prompt.languages or "english" in asked:
        return False
    latin = len(
        _LATIN_WORD.findall(text)
    )  # of a prompt in another script, answered in Latin letters
    return latin >= MIN_LATIN_WORDS and latin > sum(
        n / _WORD_LETTERS.get(name, 5) for name, n in letters.items()
    )


def _has_foreign_words(prompt: _Prompt, text: str, asked: set[str]) -> bool:
    found = _function_words(text)
    if not found:
        return False
    own = set(prompt.languages)
    if not own and not prompt.scripts:  # what the trace is mostly written in is its language
        own = {found.most_common(1)[0][0]}
    total = found.total()
    for name, count in found.items():
        least = (
            MIN_MAIN_WORDS
            if count > MAIN_SHARE * total
            else max(MIN_FUNCTION_WORDS, FUNCTION_WORD_SHARE * total)
        )
        if name not in own | asked and count >= least:
            return True
    return False


def _letters(text: str, *, besides: str = "") -> Counter[str]:
    """Count letters of each script but Latin, outside of `besides`.

    Single Greek letters are symbols.
    """
    found: Counter[str] = Counter()
    if text.isascii():
        return found
    for stretch in _NOT_LATIN.findall(text):
        for match in _RUN.finditer(stretch):
            name, run = str(match.lastgroup), match[0]
            if run not in besides and not (name == "greek" and len(run) < _GREEK_WORD):
                found[name] += len(run)
    return found


def _function_words(text: str) -> Counter[str]:
    words = _WORD.findall(text.lower())
    return Counter([_LANGUAGE_OF[word] for word in words if word in _LANGUAGE_OF])


def function_word_share(text: str) -> float:
    """Measure the share of function words in a text.

    Words of all known languages count.
    """
    words = _WORD.findall(text.lower().replace("’", "'"))
    return sum(word in _LANGUAGE_OF for word in words) / max(1, len(words))


def _prose(text: str) -> str:
    """A text without code, formulas and short quotations."""
    if any(sign in text for sign in "`$\\<") or "://" in text:
        text = _NOT_PROSE.sub(" ", text)
    return _MENTION.sub(" ", text).replace("’", "'")
