"""Texts that loop in four ways and five languages, and long honest ones that only resemble a loop.

Made by rules from paragraphs of `flag_cases` and from templates with numbers; the same in each run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import flag_cases

ROUNDS = 14
DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class LoopCase:
    """A text, whether it loops, and by which rule it was made."""

    family: str
    text: str
    loops: bool


_REWORD = {
    "english": {"but": "however", "so": "thus", "is": "may be", "the": "this", "first": "initial"},
    "german": {"aber": "doch", "also": "folglich", "ist": "wäre", "und": "sowie", "das": "dies"},
    "spanish": {"pero": "aunque", "es": "será", "y": "además", "que": "cual", "la": "esa"},
    "french": {"mais": "or", "est": "serait", "donc": "ainsi", "et": "puis", "la": "cette"},
    "chinese": {"所以": "因此", "但是": "不过", "是": "乃是", "我们": "咱们", "可以": "能够"},
}
_TEXTS = {
    "german": [
        "Angenommen, die rote Kiste enthält den Schlüssel. Dann ist der Zettel auf der blauen "
        "Kiste falsch, und der Wächter hat die Wahrheit über die Lampe gesagt.",
        "Aber die Lampe war aus, als wir kamen, also hat sie jemand vor dem Mittag ausgeschaltet, "
        "und das passt nicht zum Tagebuch, nach dem das Haus bis zwei Uhr leer war.",
        "Vielleicht ist die grüne Kiste gemeint, die schon einmal offen war und in der nur eine "
        "Münze lag, das wäre die Antwort, wenn die alte Geschichte stimmt.",
        "Noch einmal von vorn: welche Kiste soll zuerst geöffnet werden, und darf man zwei "
        "zugleich öffnen, oder hält uns der Wächter davon ab?",
    ],
    "spanish": [
        "Supongamos que la caja roja guarda la llave. Entonces la nota de la caja azul es falsa y "
        "el guardia dijo la verdad sobre la lámpara.",
        "Pero la lámpara estaba apagada cuando llegamos, así que alguien la apagó antes del "
        "mediodía, y eso no concuerda con el diario, que dice que la casa estaba vacía.",
        "Quizá la respuesta es la caja verde, que ya fue abierta una vez y en la que solo había "
        "una moneda, si la vieja historia es cierta.",
        "Volvamos a la pregunta: qué caja hay que abrir primero, y si es posible abrir dos a la "
        "vez o el guardia lo impide.",
    ],
    "french": [
        "Supposons que la boîte rouge contient la clé. Alors la note de la boîte bleue est fausse "
        "et le gardien a dit la vérité sur la lampe.",
        "Mais la lampe était éteinte quand nous sommes entrés, donc quelqu'un l'a éteinte avant "
        "midi, et cela ne va pas avec le journal, selon lequel la maison était vide.",
        "Peut-être que la réponse est la boîte verte, qui a déjà été ouverte une fois et où il n'y "
        "avait qu'une pièce, si la vieille histoire est vraie.",
        "Revenons à la question : quelle boîte faut-il ouvrir en premier, et peut-on en ouvrir "
        "deux à la fois, ou le gardien nous en empêche-t-il ?",
    ],
    "chinese": [
        "假设红盒子里有钥匙，那么蓝盒子上的纸条就是假的，守卫关于灯的话是真的，所以灯应该是亮着的。",
        "但是我们进来的时候灯是关着的，所以一定有人在中午以前把它关了，这和日记里写的房子一直空着并不一致。",
        "也许答案是绿盒子，它以前被打开过一次，里面只有一枚硬币，如果那个古老的故事是真的话就可以这样解释。",
        "让我们回到问题本身：应该先打开哪一个盒子，我们可以同时打开两个盒子吗，还是守卫会阻止我们这样做？",
    ],
}


def _english(rng: random.Random) -> list[str]:
    pool = [p for text in flag_cases.PROSE for p in text.split("\n\n")]
    return [" ".join(p.split()) for p in rng.sample(pool, 4)]


def _reworded(text: str, words: dict[str, str], rng: random.Random, share: float) -> str:
    if words is _REWORD["chinese"]:
        for word, other in words.items():
            if rng.random() < share:
                text = text.replace(word, other, 1)
        return text
    out = []
    for word in text.split(" "):
        other = words.get(word.lower())
        out.append(other if other and rng.random() < share else word)
    return " ".join(out)


def positives(seed: int) -> Iterator[LoopCase]:
    """Cycles: exact, reworded, shuffled, drifting."""
    rng = random.Random(seed)
    for language, words in _REWORD.items():
        for _ in range(5):
            paragraphs = _english(rng) if language == "english" else list(_TEXTS[language])
            rng.shuffle(paragraphs)
            lead = f"{paragraphs[0][:60]} ({rng.randint(100, 999)})\n\n"
            rounds = ROUNDS + rng.randint(0, 6)
            exact = "\n\n".join(paragraphs * rounds)
            yield LoopCase(f"exact {language}", lead + exact, True)
            again = [_reworded(p, words, rng, 0.5) for _ in range(rounds) for p in paragraphs]
            yield LoopCase(f"reworded {language}", lead + "\n\n".join(again), True)
            mixed = [p for _ in range(rounds) for p in rng.sample(paragraphs, len(paragraphs))]
            yield LoopCase(f"shuffled {language}", lead + "\n\n".join(mixed), True)
            yield LoopCase(f"drifting {language}", lead + _drifting(paragraphs, rounds, rng), True)
            both = [
                _reworded(p, words, rng, 0.4)
                for _ in range(rounds)
                for p in rng.sample(paragraphs, len(paragraphs))
            ]
            yield LoopCase(f"shuffled and reworded {language}", lead + "\n\n".join(both), True)


def _drifting(paragraphs: list[str], rounds: int, rng: random.Random) -> str:
    """Each round changes a word of each paragraph for good."""
    now, out = list(paragraphs), []
    for number in range(rounds):
        for at, text in enumerate(now):
            gap = " " if " " in text else "，"
            words = text.split(gap)
            spot = rng.randrange(len(words))
            words[spot] = f"{words[spot]} again" if gap == " " else f"{words[spot]}呢"
            now[at] = gap.join(words) if number % 2 else text
            out.append(now[at])
    return "\n\n".join(out)


def negatives(seed: int) -> Iterator[LoopCase]:
    """Long texts that say something new to their end: proofs, lists, code, tables, case checks."""
    rng = random.Random(seed)
    problems = [
        json.loads(line)["problem"]
        for line in (DATA / "reworded.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for _ in range(12):
        yield LoopCase("problems", "\n\n".join(rng.sample(problems, 80)), False)
        texts = [*flag_cases.MATHS, *flag_cases.PROSE]
        yield LoopCase("prose", "\n\n".join(rng.sample(texts, len(texts))), False)
        start = rng.randint(2, 900)
        for name, make in _TEMPLATES.items():
            items = [make(n, rng) for n in range(start, start + 130)]
            yield LoopCase(name, "\n".join(items), False)
    chinese = [*flag_cases.CHINESE, *(t for text in _TEXTS.values() for t in text)]
    for _ in range(6):
        yield LoopCase("chinese prose", "\n\n".join(rng.sample(chinese, len(chinese))), False)


def _divisors(n: int, rng: random.Random) -> str:
    small = next((d for d in range(2, n) if n % d == 0), n)
    if small == n:
        return f"Next is {n}: no number up to its square root divides it, so {n} is a prime."
    why = f"{small} · {n // small} = {n}"
    return f"Next is {n}: it is divisible by {small}, since {why}, so not prime."


def _cases(n: int, rng: random.Random) -> str:
    a, b = rng.randint(2, 60), rng.randint(2, 60)
    return (
        f"Case x = {n}: the left side is {a}·{n} + {b} = {a * n + b}, the right side is {n}² = "
        f"{n * n}. These are not equal, so x = {n} is no solution."
    )


def _proof(n: int, rng: random.Random) -> str:
    name = rng.choice(["Lemma", "Claim", "Step", "Remark"])
    what = rng.choice(["even", "odd", "a square", "prime to 6", "bounded", "monotone", "convex"])
    which = rng.choice(["a", "b", "c", "f", "g", "h", "u", "v"])
    how = rng.choice(
        ["by induction", "by the triangle inequality", "as before", "by contradiction"]
    )
    return (
        f"{name} {n}. The sequence {which}_{n} is {what}. Proof {how}: from {name.lower()} {n - 1} "
        f"we know that {which}_{n - 1} = {rng.randint(2, 99)}, and adding {rng.randint(2, 99)} "
        f"keeps it {what}."
    )


def _code(n: int, rng: random.Random) -> str:
    name, other = rng.choice(["alpha", "beta", "gamma", "delta"]), rng.choice(["x", "y", "z"])
    line = f"return {other} * {rng.randint(2, 999)} + {rng.randint(1, 99)}"
    return f"def {name}_{n}({other}):\n    {line}\n"


def _table(n: int, rng: random.Random) -> str:
    cells = " | ".join(str(rng.randint(0, 99)) for _ in range(5))
    return f"| {n} | {cells} | {rng.choice(['yes', 'no'])} |"


def _truth(n: int, rng: random.Random) -> str:
    return "| " + " | ".join(rng.choice("TF") for _ in range(7)) + " |"


def _list(n: int, rng: random.Random) -> str:
    city = rng.choice(["Oslo", "Lima", "Cairo", "Quito", "Delhi", "Seoul", "Tunis", "Accra"])
    food = rng.choice(["rice", "bread", "fish", "beans", "apples", "cheese", "tea", "corn"])
    day = rng.randint(1, 365)
    return f"- Order {n}: {rng.randint(1, 99)} boxes of {food} for {city}, due on day {day}."


_TEMPLATES = {
    "divisors": _divisors,
    "cases": _cases,
    "proof": _proof,
    "code": _code,
    "table": _table,
    "truth table": _truth,
    "list": _list,
}


def loop_cases(seed: int = 1) -> list[LoopCase]:
    """All cases of a seed."""
    return [*positives(seed), *negatives(seed)]


_WORDS = {
    "han": [
        "认为",
        "因此",
        "例如",
        "可能",
        "问题",
        "需要",
        "结果",
        "首先",
        "然后",
        "方法",
        "关系",
        "数字",
        "答案",
    ],
    "hangul": ["그러나", "따라서", "생각에는", "결과적으로"],
    "kana": ["しかし", "したがって", "だから", "ですから"],
    "cyrillic": ["следовательно", "предположим что", "таким образом"],
}
_ASKED = [
    "Which is more likely?",
    "How many rows are there?",
    "Explain why the sky is blue.",
    "What is 12% of 250?",
    "Write a short story about a sailor.",
]


@dataclass(frozen=True)
class MixedCase:
    """A prompt, a reasoning, and whether it leaves the prompt's language."""

    family: str
    prompt: str
    reasoning: str
    mixed: bool


def mixed_cases(seed: int = 1) -> list[MixedCase]:
    """English with a word of another script in it, and English that only mentions one."""
    rng = random.Random(seed)
    texts = [*flag_cases.MATHS, *flag_cases.PROSE]
    found = []
    for script, words in _WORDS.items():
        for word in words:
            for _ in range(3):
                text = rng.choice(texts).split(" ")
                spot = rng.randrange(1, len(text))
                glued = rng.random() < 0.5 and script == "han"
                if glued:
                    text[spot - 1] += word
                else:
                    text.insert(spot, word)
                found.append(
                    MixedCase(f"a word of {script}", rng.choice(_ASKED), " ".join(text), True)
                )
                quoted = rng.choice([f'"{word}"', f"“{word}”", f"({word})", f"「{word}」"])
                other = rng.choice(texts).split(" ")
                other.insert(len(other) // 2, f"as in {quoted}")
                found.append(MixedCase("a mention", rng.choice(_ASKED), " ".join(other), False))
                asked = f"What does {word} mean, and how is {word} used?"
                own = f"The word {word} is common. {rng.choice(texts)}"
                found.append(MixedCase("in the prompt", asked, own, False))
    for text in texts:
        found.append(MixedCase("clean", rng.choice(_ASKED), f"{text} Let θ = α + β, Δ = 3.", False))
        about = "Who was Confucius, and what does the Lunyu say about Chinese rites?"
        found.append(
            MixedCase("a topic", about, f"{text} His name is 孔子 and the book is 论语.", False)
        )
    return found
