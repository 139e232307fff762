"""Labelled texts for flags, second set: longer cycles, more scripts, more kinds of soup.

Positives and honest negatives are made by rules from the paragraphs below, the same in each run.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class DrawnCase:
    """A prompt, a reasoning, and the flag that it should have, if any; `may`: another."""

    family: str
    prompt: str
    reasoning: str
    flag: str | None
    may: str = ""


ENGLISH = [
    "Let me set up the equation for the two trains again. The first one leaves at noon and runs at "
    "a steady speed, so the distance that it covers is the speed times the hours. The second one "
    "leaves later, but it is faster, and therefore they have to meet somewhere on the line.",
    "But this assumes that both stations are on the same track. If the second train starts from "
    "the other end, the distances add up instead of being equal, and the equation is different. "
    "The text does not say which of these is meant, so I should look at both.",
    "Maybe I should draw a picture. On the left there is the first station, on the right there is "
    "the second, and the bridge is in the middle. The bridge matters because the trains are slower "
    "there, which nobody used so far in the argument.",
    "Wait, the speed on the bridge is only given for one of the trains. Then the other may keep "
    "its speed, and the time that it needs for the bridge is short. That changes the meeting point "
    "by a few miles, but it does not change the order of the events.",
    "Alternatively, think of it from the point of view of a passenger. She sees the other train "
    "come closer at the sum of both speeds, and she looks at her watch when the engines pass. It "
    "shows the same hour whichever frame we choose.",
    "Hmm, I want to check the units. The speed is in miles an hour and the delay is in minutes, so "
    "one of them must be converted first. If I forgot that, the result is too large by a factor of "
    "sixty, and that would explain the strange number above.",
    "Perhaps the question is a trick. It asks when they meet, not where, and the answer may be "
    "that they never do, because the second train stops before the bridge. The timetable at the "
    "end of the text could be read in this way.",
    "On the other hand, the author surely wants a number. A problem from a school book hardly ends "
    "with never, and the figures are chosen so that the division comes out even. So there should "
    "be a clean solution somewhere.",
    "Let me try small values to see what happens. With an hour of delay the gap is one unit, with "
    "two hours it is two units, and so forth. The pattern is linear, as expected, and so the "
    "formula from the beginning looks right after all.",
    "Still, there is the matter of the second delay. It was mentioned in a single half sentence, "
    "and I am not sure that it applies to both directions. If it does, the whole timetable moves, "
    "and the meeting point stays where it was.",
    "I could also solve it with a graph. Time goes to the right, distance goes up, and each train "
    "is a straight line. The lines cross at one point, and the coordinates of that point are what "
    "we are looking for.",
    "Looking back at the statement, it says about noon and not at noon. That is vague, but for a "
    "school problem it should make no difference. We take the usual meaning and go on with the "
    "calculation from there.",
]
SYNONYMS = {
    "but": "yet", "so": "hence", "therefore": "thus", "maybe": "perhaps", "perhaps": "possibly",
    "let": "so let", "should": "ought to", "problem": "exercise", "because": "since",
    "also": "as well", "still": "even so", "looks": "seems", "whole": "entire", "text": "statement",
    "big": "large", "usual": "ordinary", "the": "this", "is": "seems", "that": "which",
}  # fmt: off
OTHERS = {
    "russian": [
        "Предположим, что первый поезд выехал в полдень и шёл с постоянной скоростью. Тогда "
        "расстояние равно скорости, умноженной на время, и второй поезд догонит его у моста.",
        "Однако в условии не сказано, что станции лежат на одной линии. Если они на разных концах, "
        "то расстояния складываются, и уравнение получается совсем другим.",
        "Может быть, стоит нарисовать схему. Слева первая станция, справа вторая, а мост "
        "посередине, и на мосту поезда идут медленнее, чего мы пока не учли.",
    ],
    "japanese": [
        " "
        "まず最初の列車が正午に出発し、一定の速さで走ると仮定します。すると距離は速さと時間の積になり、"
        "二番目の列車は橋のところで追いつくはずです。",
        "しかし問題文には二つの駅が同じ線路にあるとは書かれていません。もし反対側から出発するなら、"
        "距離は足し合わせることになり、式は全く別のものになります。",
        "図を描いてみましょう。左に最初の駅、右に二番目の駅があり、橋は真ん中にあります。"
        "橋の上では列車は遅くなりますが、これはまだ使っていません。",
    ],
    "korean": [
        "첫 번째 기차가 정오에 출발해서 일정한 속력으로 "
        "달린다고 가정하자. 그러면 거리는 속력과 시간의 "
        "곱이고, 두 번째 기차는 다리에서 따라잡게 된다.",
        "그러나 문제에는 두 역이 같은 선로에 있다는 "
        "말이 없다. 만약 반대쪽에서 출발한다면 거리를 더해야 "
        "하고 식은 완전히 달라진다.",
        "그림을 그려 보자. 왼쪽에 첫 번째 역이 있고 "
        "오른쪽에 두 번째 역이 있으며 다리는 가운데에 있다. "
        "다리 위에서는 기차가 느려지는데 아직 쓰지 않았다.",
    ],
    "arabic": [
        "لنفترض أن القطار الأول انطلق عند الظهر وسار بسرعة ثابتة. إذن المسافة تساوي السرعة مضروبة "
        "في الزمن، والقطار الثاني سيلحق به عند الجسر.",
        "لكن المسألة لا تقول إن المحطتين على خط واحد. إذا انطلق من الطرف الآخر فإن المسافتين "
        "تجمعان، وتصبح المعادلة مختلفة تماما عما كتبناه.",
        "ربما يجب أن نرسم شكلا. على اليسار المحطة الأولى وعلى اليمين الثانية، والجسر في الوسط، "
        "وعليه يسير القطاران ببطء، وهذا لم نستعمله بعد.",
    ],
    "hindi": [
        "मान लीजिए कि पहली रेलगाड़ी दोपहर को चली और एक समान गति से चलती रही। तब दूरी गति और समय का "
        "गुणनफल है और दूसरी रेलगाड़ी उसे पुल पर पकड़ लेगी।",
        "लेकिन प्रश्न में यह नहीं कहा गया कि दोनों स्टेशन एक "
        "ही पटरी पर हैं। यदि वह दूसरी ओर से चलती है "
        "तो दूरियाँ जुड़ती हैं और समीकरण बिल्कुल अलग हो जाता है।",
        "शायद हमें चित्र बनाना चाहिए। बाईं ओर पहला स्टेशन है, "
        "दाईं ओर दूसरा, और पुल बीच में है, जहाँ "
        "गाड़ियाँ धीमी चलती हैं, जिसका हमने उपयोग नहीं किया।",
    ],
}
WORDS = {
    "chinese": ["因此", "我们", "假设", "所以", "但是", "可能", "方程", "首先", "比如", "或者"],
    "russian": ["поэтому", "следовательно", "предположим", "например", "скорость поезда"],
    "japanese": ["したがって", "しかし", "つまり", "ところで"],
    "korean": ["그러므로", "하지만", "예를 들어"],
    "arabic": ["وبالتالي فإن المسافة", "لكن السرعة ثابتة"],
    "hindi": ["इसलिए दूरी बराबर", "लेकिन समय कम है"],
}
GERMAN = (
    "Wir betrachten zuerst den Zug, der um zwölf Uhr abfährt und mit gleicher Geschwindigkeit "
    "fährt. Die Strecke ist dann das Produkt aus Zeit und Geschwindigkeit, und der zweite Zug "
    "holt ihn auf der Brücke ein, wenn wir die Verspätung nicht vergessen."
)
ASKED = ["When do the trains meet?", "How far is it to the bridge?", "Solve for the time t."]


def _reworded(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for at, word in enumerate(words):
        if word.lower() in SYNONYMS and rng.random() < 0.35:
            words[at] = SYNONYMS[word.lower()]
    return " ".join(words)


def loops(rng: random.Random) -> Iterator[DrawnCase]:
    """Cycles of 2 to 12 paragraphs, and the same thought with other numbers."""
    for size in (2, 3, 4, 6, 8, 10, 12):
        for family in ("reworded", "reordered", "both"):
            for _ in range(3):
                chosen = rng.sample(ENGLISH, size)
                parts = list(rng.sample(ENGLISH, 2))
                while sum(map(len, parts)) < 26_000:
                    order = rng.sample(chosen, size) if family != "reworded" else chosen
                    parts += order if family == "reordered" else [_reworded(p, rng) for p in order]
                text = "\n\n".join(parts)
                yield DrawnCase(f"{family} {size}", rng.choice(ASKED), text, "looping")
    for language, paragraphs in OTHERS.items():
        for size in (2, 3):
            for _ in range(3):
                chosen = rng.sample(paragraphs, size)
                parts = []
                while sum(map(len, parts)) < 9000:
                    parts += rng.sample(chosen, size)
                text = "\n\n".join(parts)
                yield DrawnCase(f"reordered {language}", paragraphs[2], text, "looping")
    for _ in range(10):
        chosen, parts, number = rng.sample(ENGLISH, 3), [], rng.randint(2, 50)
        while sum(map(len, parts)) < 16_000:
            number += rng.randint(1, 5)
            parts += [f"Attempt {number}: with {number * 3} miles. {p}" for p in chosen]
        yield DrawnCase("drifting numbers", rng.choice(ASKED), "\n\n".join(parts), "looping")


def mixed(rng: random.Random) -> Iterator[DrawnCase]:
    """A word or two of another script within a sentence."""
    for name, words in WORDS.items():
        for word in words:
            for _ in range(2):
                text = rng.choice(ENGLISH).split(" ")
                text.insert(rng.randrange(3, len(text)), word)
                case = DrawnCase(f"{name} in English", ASKED[0], " ".join(text), "mixed_language")
                yield case
    for word in [*WORDS["russian"], *WORDS["chinese"][:5]]:
        text = GERMAN.split(" ")
        text.insert(rng.randrange(3, len(text)), word)
        asked = "Wann treffen sich die beiden Züge auf der Brücke?"
        yield DrawnCase("another script in German", asked, " ".join(text), "mixed_language")
    for language in ("russian", "korean", "arabic"):
        for word in WORDS["chinese"][:4]:
            first, second = OTHERS[language][:2]
            text = f"{first} {word} {second}"
            yield DrawnCase(f"Chinese in {language}", first[:60], text, "mixed_language")


_SUBWORDS = (
    "ing ed tion Ġthe ##ly ment ost ra _un ize ▁al er able Ġno ish pre ##s con ▁de est ous ive ly "
    "ance ism th ▁re ath ion ual ##er ▁in ological ut ▁ex ness"
)
_CODE = [
    "}}]);", "=>{", "const(", "undefined[", "'value':{", '"},', "function(){", "===null)", "$('#",
    "').each(", "&&!(", "];for(", "<div>'+", "var_", "++){if", "(err,data", '["items"', ").then(",
    "\\n',", "};return",
]  # fmt: off
_MANY = (
    "और 然后 потом then 그리고 そして ثم dann "
    "entonces 因为 потому что because 왜냐하면 なぜなら لأن "
    "weil porque क्योंकि 所以 поэтому hence 그래서 だから لذلك also"
)
_NOUNS = (
    "lantern gravel orbit mustard velvet turbine pelican ledger quartz saddle amber comet ridge "
    "button harbor violin magnet cedar tunnel falcon spoon glacier ticket marble candle anchor "
    "pepper canyon mirror rocket"
)


def soups(rng: random.Random) -> Iterator[DrawnCase]:
    """Good prose, then tokens that say nothing to the end."""
    kinds = {
        "subwords": (_SUBWORDS.split(), " "),
        "subwords glued": (_SUBWORDS.split(), ""),
        "code": (_CODE, ""),
        "code apart": (_CODE, " "),
        "scripts": (_MANY.split(), " "),
        "nouns": (_NOUNS.split(), " "),
    }
    for name, (items, gap) in kinds.items():
        for _ in range(6):
            good = "\n\n".join(rng.sample(ENGLISH, 9))
            may = "mixed_language" if name == "scripts" else ""
            tail = gap.join(rng.choice(items) for _ in range(420))
            yield DrawnCase(f"soup of {name}", ASKED[1], f"{good} {tail}", "token_soup", may)


def honest(rng: random.Random) -> Iterator[DrawnCase]:
    """Long texts that only resemble a fault."""
    yield DrawnCase("prose", ASKED[0], "\n\n".join(ENGLISH), None)
    for language, paragraphs in OTHERS.items():
        yield DrawnCase(f"prose {language}", paragraphs[0], "\n\n".join(paragraphs), None)
    for _ in range(8):
        yield from _lists(rng)
        yield from _mentions(rng)


def _lists(rng: random.Random) -> Iterator[DrawnCase]:
    start = rng.randint(3, 40)
    numbers = range(start, start + 70)
    makers = {
        "proof by cases": lambda n: (
            f"Case {n}: suppose that n = {n}k + {n % 7}. Then n² + n = {n * n}k² + "
            f"{n * (2 * (n % 7) + 1)}k + {(n % 7) ** 2 + n % 7}, which leaves {(n % 7) ** 2 % 5} "
            f"modulo 5, so the claim holds {rng.choice(['at once', 'by the lemma', 'as above'])}."
        ),
        "enumeration": lambda n: (
            f"{n}. {rng.choice(_NOUNS.split())}, {rng.choice(_NOUNS.split())} and "
            f"{rng.choice(_NOUNS.split())}: {rng.randint(2, 99)} ways"
        ),
        "multiplication": lambda n: "; ".join(f"{n} × {m} = {n * m}" for m in range(2, 13)),
        "table": lambda n: f"| {n} | {n * n} | {n**3} | {rng.choice(['odd', 'even', 'prime'])} |",
        "division": lambda n: (
            f"{n * 137} : {n} — {n} goes into {n * 137 // 100} {137 // 100} times, bring down "
            f"{rng.randint(0, 9)}, remainder {rng.randint(0, n)}"
        ),
        "latex": lambda n: (
            rf"\[ \int_0^{{{n}}} x^{{{n % 9}}}\,dx = \frac{{{n}^{{{n % 9 + 1}}}}}{{{n % 9 + 1}}}, "
            rf"\quad \sum_{{k=1}}^{{{n}}} k = {n * (n + 1) // 2} \]"
        ),
        "code": lambda n: (
            f"    if (items[{n}].size() > {rng.randint(2, 99)}) {{ total += weights[{n}]; }}\n"
            f'    log.debug("step {n}: {{}}", total * {rng.randint(2, 9)});'
        ),
        "json": lambda n: f'{{"id": {n}, "name": "{rng.choice(_NOUNS.split())}", "ok": true}},',
        "words to learn": lambda n: f"{n}: {rng.choice(_NOUNS.split())} (noun)",
    }
    for name, make in makers.items():
        lines = [make(n) for n in numbers]
        text = f"{ENGLISH[0]}\n\n" + "\n".join(lines)
        yield DrawnCase(name, ASKED[2], text, None)


def _mentions(rng: random.Random) -> Iterator[DrawnCase]:
    word = rng.choice(WORDS["chinese"])
    english = rng.sample(ENGLISH, 3)
    asked = f"What does {word} mean?"
    yield DrawnCase("asked for", asked, f"The word {word} is common. {english[0]}", None)
    yield DrawnCase("quoted", ASKED[0], f'{english[0]} The sign says "{word}". {english[1]}', None)
    yield DrawnCase("bracketed", ASKED[0], f"{english[0]} This is called ({word}) there.", None)
    refrain = "And the river runs on to the sea, my love,\nand the river runs on to the sea."
    verses = [
        "\n".join(
            f"The {rng.choice(_NOUNS.split())} lay by the {rng.choice(_NOUNS.split())} at "
            f"{rng.choice(['dawn', 'night', 'noon', 'dusk'])},"
            for _ in range(4)
        )
        for _ in range(12)
    ]
    poem = "\n\n".join(f"{verse}\n{refrain}" for verse in verses)
    yield DrawnCase("refrain", "Write a ballad.", poem, None)
    greek = f"{english[2]} Let α + β = γ, and let Δ = β² − 4αγ with π ≈ 3.14 and Σ xᵢ = μ."
    yield DrawnCase("greek symbols", ASKED[2], greek, None)
    names = f"{english[1]} It goes from Łódź to Zürich by way of São Paulo and Việt Nam."
    yield DrawnCase("names", ASKED[2], names, None)


def drawn_cases(seed: int = 7) -> list[DrawnCase]:
    """All cases, each text once."""
    rng = random.Random(seed)
    found = [*loops(rng), *mixed(rng), *soups(rng), *honest(rng)]
    return list({re.sub(r"\s+", " ", one.prompt + one.reasoning): one for one in found}.values())
