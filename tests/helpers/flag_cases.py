"""The labelled set for flags, made by rules: the same in each run.

A case is a prompt, a reasoning, an answer, and the flags that a reader would set, of the six that
are judged by content. All texts are written for this purpose. Cases marked `held` were written
after the rules.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from batchr1.records import FLAGS

MATHS = [
    (
        "Okay, so I need to find the sum of the first 40 odd numbers. The odd numbers are 1, 3, 5, "
        "and so on.\n"
        "\n"
        "I recall that the sum of the first n odd numbers is n squared. Let me test it: 1 + 3 = 4, "
        "1 + 3 + 5 = 9. Yes, that fits.\n"
        "\n"
        "So for n = 40 the sum is 1600. Wait, let me double-check with the formula: (first + last) "
        "/ 2 times n. The last one is 79, so (1 + 79) / 2 * 40 = 1600. Good."
    ),
    (
        "We want all integers x with x^2 - 5x + 6 = 0. Factoring gives (x - 2)(x - 3) = 0, "
        "therefore x = 2 or x = 3.\n"
        "\n"
        "Let me check: 4 - 10 + 6 = 0, and 9 - 15 + 6 = 0. Both work.\n"
        "\n"
        "So there are two solutions, and their sum is 5, which agrees with Vieta's formulas."
    ),
    (
        "Let \\(f(x) = \\frac{2x+1}{x-3}\\). To find the inverse, I set \\(y = "
        "\\frac{2x+1}{x-3}\\) and solve for \\(x\\).\n"
        "\n"
        "\\[ y(x-3) = 2x+1 \\implies xy - 3y = 2x + 1 \\implies x(y-2) = 3y+1 \\]\n"
        "\n"
        "So \\(x = \\frac{3y+1}{y-2}\\). Hence \\(f^{-1}(x) = \\frac{3x+1}{x-2}\\). Wait, is x = 2 "
        "a problem? The range of f excludes 2, so that is consistent."
    ),
    (
        "A train leaves at 8:15 and travels 240 km at 80 km/h. That is 3 hours, so it arrives at "
        "11:15.\n"
        "\n"
        "But there's a stop of 20 minutes. So 11:35. Hmm, does the stop count as part of the "
        "travel? The problem says the train stops for 20 minutes on the way, so yes.\n"
        "\n"
        "Therefore the arrival is at 11:35."
    ),
    (
        "The probability of drawing two red balls without replacement: there are 5 red and 7 blue, "
        "12 in total. First draw: 5/12. Second: 4/11. The product is 20/132 = 5/33.\n"
        "\n"
        "Alternatively, C(5,2)/C(12,2) = 10/66 = 5/33. Same result. Good."
    ),
    (
        "Compute 347 × 26. First 347 × 20 = 6940. Then 347 × 6 = 2082. The sum is 6940 + 2082 = "
        "9022.\n"
        "\n"
        "Let me verify by estimating: 350 × 26 = 9100, minus 3 × 26 = 78, gives 9022. Yes."
    ),
    (
        "Let ABC be a triangle with AB = 13, BC = 14, CA = 15. By Heron, s = 21 and the area is "
        "sqrt(21·8·7·6) = sqrt(7056) = 84.\n"
        "\n"
        "The inradius is area / s = 4. And the circumradius is abc/(4·84) = 2730/336 = 8.125. So R "
        "= 65/8."
    ),
    (
        "Since α + β = π/2, we have sin α = cos β. Then tan α tan β = 1. With θ = α − β, the "
        "expression becomes sin θ / cos θ.\n"
        "\n"
        "With Δ = b² − 4ac > 0 there are two real roots, λ₁ and λ₂, and Σ λᵢ = −b/a."
    ),
]
PROSE = [
    (
        "The user wants a short explanation of photosynthesis for a ten-year-old. I should keep "
        "the words simple and use a picture that a child knows, such as a kitchen.\n"
        "\n"
        "Plants make their own food. They take in light, water and air. I could say that the leaf "
        "is a kitchen and the sun is the stove. That should be enough for a start, and I can end "
        "with a question to keep the child curious."
    ),
    (
        "Okay, let me think about how the French Revolution began. There was a financial crisis, a "
        "bad harvest in 1788, and a tax system which burdened the third estate. The "
        "Estates-General met in May 1789, and the third estate declared itself the National "
        "Assembly in June.\n"
        "\n"
        "I should mention the Tennis Court Oath and the storming of the Bastille on 14 July. Then "
        "I can explain why the bread price mattered."
    ),
    (
        "The question is whether the seller must refund the buyer. The contract says that goods "
        "can be returned within 14 days. The buyer returned them on day 12. But the box was "
        "opened.\n"
        "\n"
        "There is no clause about opened boxes. So the general rule applies, and the refund is "
        "due. However, the seller may deduct a loss of value if the goods were used beyond what is "
        "needed to test them."
    ),
    (
        "To plan a week of meals for two people with a budget of 60 euros, I need cheap staples: "
        "rice, lentils, eggs, oats, seasonal vegetables. Breakfast can be oats with fruit. Lunch "
        "could be lentil soup on three days.\n"
        "\n"
        "What about protein? Eggs, beans and some chicken. Let me list prices: rice 2, lentils 3, "
        "eggs 4, oats 2, vegetables 15, fruit 10, chicken 8, oil and spices 6. The sum is 50, so "
        "it fits."
    ),
    (
        "Hmm, the poem should have four lines and rhyme in pairs. Something about the sea in "
        "winter. "
        '"The sea lies grey beneath the snow" could be the first line. Then "and no one sees the '
        'currents go".\n\nFor the second pair: "but deep below the '
        "frozen foam / a thousand fish are "
        'swimming home". That is nice and the metre is mostly iambic.'
    ),
]
CHINESE = [
    (
        "嗯，用户问的是鸡兔同笼的问题。头一共有35个，脚一共有94只。先假设全部是鸡，那么脚有70只，"
        "比实际少24只。\n"
        "\n"
        "每把一只鸡换成一只兔子，脚就多2只，所以兔子有12只，鸡有23只。\n"
        "\n"
        "检验一下：12×4 + 23×2 = 48 + 46 = 94，正确。"
    ),
    (
        "首先我需要求函数 f(x) = x^2 - 4x + 7 的最小值。配方得到 (x-2)^2 + 3，因此最小值是 3，在 x "
        "= 2 时取得。\n"
        "\n"
        "等一下，题目要求的是区间 [3, 5] 上的最小值。函数在这个区间上单调递增，所以最小值是 f(3) = "
        "4。"
    ),
    (
        "用户想要了解如何改善睡眠。我应该先说明规律作息的重要性，再提到减少咖啡因和睡前使用手机。"
        "\n\n另外，可以建议适量运动，以及在睡前做深呼吸练习。最后提醒，如果长期失眠，应当咨询医生。"
    ),
    (
        "这道题涉及 DNA 的复制。设亲代 DNA 用 15N 标记，在 14N 的培养基中复制三次，一共得到 8 个 "
        "DNA 分子，其中含有 15N 的有 2 个。\n"
        "\n"
        "所以比例是 1/4。再确认一下：半保留复制，两条旧链分到两个分子里，没有问题。"
    ),
]
OTHERS = {
    "spanish": (
        (
            "¿Cuántos litros de pintura se necesitan para pintar una pared de 12 metros cuadrados "
            "si un litro cubre 4 metros cuadrados?"
        ),
        (
            "Primero, necesitamos saber cuánta superficie cubre cada litro. Según el enunciado, un "
            "litro cubre 4 metros cuadrados, y la pared tiene 12.\n"
            "\n"
            "Entonces dividimos 12 entre 4 y tenemos 3 litros. También debemos pensar si hay dos "
            "capas, pero el problema no lo dice. Por lo tanto, la respuesta está clara: 3 litros."
        ),
    ),
    "german": (
        (
            "Ein Zug fährt um 9 Uhr ab und braucht für 180 km zwei Stunden. Wie schnell ist er im "
            "Durchschnitt, und wann kommt er an?"
        ),
        (
            "Zuerst berechnen wir die Geschwindigkeit. Der Zug fährt 180 km in zwei Stunden, das "
            "sind 90 km pro Stunde. Wenn er um 9 Uhr abfährt, dann ist er um 11 Uhr da.\n"
            "\n"
            "Aber wir müssen auch prüfen, ob es eine Pause gibt. Das ist nicht der Fall, und die "
            "Antwort ist für beide Fragen klar."
        ),
    ),
    "french": (
        (
            "Une boîte contient 24 chocolats. Paul en mange le quart. Combien en reste-t-il dans "
            "la boîte ?"
        ),
        (
            "D'abord, nous devons calculer le quart de 24, c'est 6. Donc Paul mange 6 chocolats, "
            "et il en reste 18 dans la boîte.\n"
            "\n"
            "Vérifions avec une autre méthode : il reste les trois quarts, et trois fois six font "
            "dix-huit. Nous avons alors la même réponse, ce qui est rassurant."
        ),
    ),
    "russian": (
        "Сколько существует двузначных чисел, кратных 7?",
        (
            "Нужно найти количество двузначных чисел, которые делятся на 7. Первое такое число "
            "равно 14, последнее равно 98.\n"
            "\n"
            "Получаем (98 - 14) / 7 + 1 = 13. Значит, всего тринадцать чисел."
        ),
    ),
    "japanese": (
        "りんごが12個あります。3人で同じ数ずつ分けると、1人何個ですか。",
        (
            "12個のりんごを3人で分けるので、12を3で割ります。12 ÷ 3 = 4 です。\n\nだから、"
            "1人あたり4個になります。確かめると、4 × 3 = 12 なので正しいです。"
        ),
    ),
    "italian": (
        "Quanti minuti ci sono in due ore e mezza?",
        (
            "Dobbiamo convertire le ore in minuti. Sappiamo che ogni ora ha 60 minuti, quindi due "
            "ore sono 120 minuti, e mezza ora è di 30 minuti.\n"
            "\n"
            "Allora la somma è 150 minuti. Questo è anche quello che si trova con il calcolo 2,5 "
            "per 60."
        ),
    ),
}
QUESTIONS = [
    "What is the answer?",
    "Solve the problem and explain your steps.",
    "Find the value that the problem asks for.",
    "Please help me with this question.",
    "Explain it briefly.",
]
CHINESE_QUESTIONS = [
    "鸡和兔在同一个笼子里，一共有35个头，94只脚，问各有多少只？",
    "请解答这道题，并写出过程。",
    "如何改善睡眠质量？请给出建议。",
    "这个问题的答案是什么？",
]
SENTENCES = [
    "Wait, let me check that again.",
    "I think the answer is 12, but I am not sure.",
    "So the number of ways is 6 times 5.",
    "Let me re-read the problem statement carefully.",
    "Hmm, that does not look right.",
    "The perimeter is twice the sum of the sides.",
    "No, because the remainder would be negative.",
    "Therefore we need to consider the other case.",
    "Alternatively, maybe I should use the formula.",
    "But the problem says that each box holds three.",
]
CHINESE_SENTENCES = [
    "等一下，让我再检查一遍。",
    "所以答案应该是十二。",
    "我需要重新考虑这个条件。",
    "不对，这样的话余数就是负数了。",
]


def case(
    prompt: str, reasoning: str, answer: str, *flags: str, family: str, held: bool = False
) -> dict[str, Any]:
    if (
        "loop" in family or "circling" in family
    ):  # on one line, a loop is a long paragraph too: a matter of length alone
        is_long = any(len(line.encode()) > 2400 for line in reasoning.splitlines())
        flags = (
            *(f for f in flags if f != "long_paragraph"),
            *(["long_paragraph"] if is_long else []),
        )
    return {
        "family": family,
        "held": held,
        "prompt": prompt,
        "reasoning": reasoning,
        "answer": answer,
        "flags": sorted(flags, key=FLAGS.index),
    }


def cases() -> list[dict[str, Any]]:
    rng = random.Random(11)
    return [
        *clean(rng),
        *loops(rng),
        *not_loops(rng),
        *mixed(rng),
        *not_mixed(rng),
        *leaks(rng),
        *not_leaks(),
        *paragraphs(rng),
        *code(rng),
        *not_code(),
        *refusals(),
        *not_refusals(),
        *held(rng),
        *mended(rng),
    ]


def clean(rng: random.Random) -> Iterator[dict[str, Any]]:
    for i, text in enumerate([*MATHS, *PROSE]):
        yield case(rng.choice(QUESTIONS), text, f"The answer is \\boxed{{{i}}}.", family="clean")
        yield case(
            rng.choice(QUESTIONS),
            text + "\n\n" + rng.choice(MATHS),
            "So the final answer follows as computed above.",
            family="clean",
        )
    for text in CHINESE:
        yield case(
            rng.choice(CHINESE_QUESTIONS), text, "答案是 \\boxed{12}。", family="clean chinese"
        )
    for prompt, text in OTHERS.values():
        yield case(prompt, text, "\\boxed{3}", family="clean other")


def loops(rng: random.Random) -> Iterator[dict[str, Any]]:
    for i, sentence in enumerate(SENTENCES):
        lead = rng.choice([*MATHS, *PROSE])
        looped = " ".join([sentence] * rng.randint(7, 60))
        yield case(
            rng.choice(QUESTIONS), f"{lead}\n\n{looped}", "", "looping", family="loop sentence"
        )
        cut = looped[: -rng.randint(2, len(sentence) - 2)]
        yield case(
            rng.choice(QUESTIONS), f"{lead} {cut}", "", "looping", family="loop sentence cut"
        )
        if i % 2:
            yield case(
                rng.choice(QUESTIONS),
                lead,
                f"The result: {looped}",
                "looping",
                family="loop in answer",
            )
    for sentence in CHINESE_SENTENCES:
        yield case(
            rng.choice(CHINESE_QUESTIONS),
            rng.choice(CHINESE) + sentence * rng.randint(8, 30),
            "",
            "looping",
            family="loop chinese",
        )
    for copies in (3, 4, 6):
        for paragraph in (MATHS[0], PROSE[2], MATHS[3]):
            yield case(
                rng.choice(QUESTIONS),
                PROSE[1] + "\n\n" + "\n\n".join([paragraph] * copies),
                "",
                "looping",
                family="loop paragraph",
            )
    for word in ("wait", "the", "1", "\\frac{1}{2} + ", "no, ", "ha", "0, "):
        yield case(
            rng.choice(QUESTIONS),
            MATHS[1] + " " + (word + ("" if word[-1] == " " else " ")) * rng.randint(90, 200),
            "",
            "looping",
            family="loop word",
        )
    for size in (3, 4, 5):  # a few sentences, in any order
        chosen = rng.sample(SENTENCES, size)
        yield case(
            rng.choice(QUESTIONS),
            MATHS[2] + "\n\n" + " ".join(rng.choice(chosen) for _ in range(size * 30)),
            "",
            "looping",
            family="circling",
        )
        lines = "\n\n".join(
            rng.choice(["Go.", "Ok.", "I'll output.", "Done.", "Yes."]) for _ in range(300)
        )
        yield case(
            rng.choice(QUESTIONS), MATHS[4] + "\n\n" + lines, "", "looping", family="circling short"
        )


def not_loops(rng: random.Random) -> Iterator[dict[str, Any]]:
    yield from (
        case(q, r, a, family="not a loop")
        for q, r, a in [
            (
                QUESTIONS[0],
                "\n".join(f"{n} mod 7 = {n % 7}" for n in range(100, 180))
                + "\n\nSo 105 is the first.",
                "\\boxed{105}",
            ),
            (
                QUESTIONS[0],
                "| n | f(n) |\n|---|---|\n"
                + "\n".join(f"| {n} | {n * n - n + 41} |" for n in range(60)),
                "All are prime up to n = 40.",
            ),
            (
                QUESTIONS[1],
                "\n\n".join(
                    (
                        f"Wait, what about {n}? {n} is divisible by {n // 2} if n is even. Let me "
                        f"check {n + 1} next."
                    )
                    for n in range(6, 30)
                ),
                "\\boxed{28}",
            ),
            (
                QUESTIONS[1],
                "\n".join(
                    f"Case {i}: the {a} is {b}. Then we have {i * 3} options."
                    for i, (a, b) in enumerate(
                        [
                            ("first", "red"),
                            ("second", "blue"),
                            ("third", "green"),
                            ("fourth", "black"),
                            ("fifth", "white"),
                            ("sixth", "grey"),
                        ]
                    )
                ),
                "\\boxed{45}",
            ),
            (
                QUESTIONS[0],
                "2 × 2 = 4, 4 × 2 = 8, 8 × 2 = 16, "
                + ", ".join(f"{2**k} × 2 = {2 ** (k + 1)}" for k in range(4, 40)),
                "\\boxed{1099511627776}",
            ),
            (
                QUESTIONS[0],
                (
                    "1/7 = 0.142857142857142857142857… so the digits repeat with period 6. The "
                    "100th digit is the 4th of the cycle, which is 8."
                ),
                "\\boxed{8}",
            ),
            (
                QUESTIONS[0],
                MATHS[0] + "\n\nWait. Wait. Wait. Let me start over.\n\n" + MATHS[0][:120],
                "\\boxed{1600}",
            ),
            (
                QUESTIONS[1],
                MATHS[1] + "\n\nLet me verify it once more.\n\n" + MATHS[1],
                "x = 2 or x = 3",
            ),
            (
                QUESTIONS[0],
                "The matrix is\n"
                + "\n".join(" ".join("1" if i == j else "0" for j in range(12)) for i in range(12))
                + "\nwhich is the identity.",
                "\\boxed{1}",
            ),
            (
                QUESTIONS[0],
                (
                    "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "
                    "0, 0, 0, 0, 0, 0 are the first values, and then comes a 1. "
                )
                + MATHS[4],
                "\\boxed{1}",
            ),
            (
                "Write a song with a chorus.",
                PROSE[4],
                (
                    "Row the boat across the bay,\n"
                    "row until the end of day.\n"
                    "\n"
                    "Oh the sea, the sea is wide,\n"
                    "take me to the other side.\n"
                    "\n"
                    "Gulls are crying overhead,\n"
                    "all the sails are white and red.\n"
                    "\n"
                    "Oh the sea, the sea is wide,\n"
                    "take me to the other side."
                ),
            ),
            (
                QUESTIONS[1],
                "\n".join(
                    (
                        f"Day {d}: she saves {d * 5} dollars, total "
                        f"{sum(5 * k for k in range(1, d + 1))}."
                    )
                    for d in range(1, 41)
                ),
                "\\boxed{4100}",
            ),
            (
                "List the numbers that are printed.",
                "\n".join(f"i = {i}, j = {j}, sum = {i + j}" for i in range(8) for j in range(8)),
                "64 lines",
            ),
            (
                QUESTIONS[1],
                "\n\n".join(
                    (
                        f"Alternatively, maybe I can use {m}. Hmm, but {m} needs that the terms "
                        f"are {p}."
                    )
                    for m, p in [
                        ("induction", "ordered"),
                        ("a bijection", "distinct"),
                        ("generating functions", "independent"),
                        ("symmetry", "equal"),
                        ("the pigeonhole principle", "many"),
                    ]
                ),
                "\\boxed{7}",
            ),
            (
                QUESTIONS[0],
                "Long division of 1000003 by 17:\n"
                + "\n".join(
                    f"step {k}: bring down, {k * 13 % 17}7 ÷ 17 = {k * 13 % 17 * 10 // 17}"
                    for k in range(1, 50)
                ),
                "\\boxed{58823}",
            ),
            (
                QUESTIONS[2],
                "\n".join(
                    f"- {name}: yes"
                    for name in (
                        "Ada",
                        "Ben",
                        "Cem",
                        "Dana",
                        "Eva",
                        "Finn",
                        "Gus",
                        "Hana",
                        "Ivo",
                        "Jan",
                        "Kim",
                        "Lea",
                        "Max",
                    )
                ),
                "13 people said yes.",
            ),
        ]
    )
    for text in (*MATHS, *PROSE, *CHINESE):  # long and varied
        others = rng.sample([*MATHS, *PROSE], 6)
        prompt = rng.choice(CHINESE_QUESTIONS) if text in CHINESE else rng.choice(QUESTIONS)
        body = [t for t in (rng.sample(CHINESE, 3) if text in CHINESE else others) if t != text]
        yield case(prompt, "\n\n".join([text, *body]), "\\boxed{5}", family="long")


def mended(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Afterthoughts: written when the rest had been measured."""
    for i, closing in enumerate(
        [
            "\n\nConsidering the limited time, I have to give the answer now.",
            " Okay, I will stop here. The answer is 12.",
            "\nFinal answer: 12.",
        ]
    ):
        yield case(
            rng.choice(QUESTIONS),
            MATHS[i] + "\n\n" + f"{SENTENCES[i]} " * 40 + closing,
            "12",
            "looping",
            family="loop that was closed",
        )
    yield case(
        rng.choice(QUESTIONS),
        "The sum of the rows is zero:\n"
        + "0 0 0 0 0 0 0 0 0 0\n" * 10
        + "So this is the zero matrix.",
        "0",
        family="zeros",
    )
    yield case(
        "Compute 17*23.",
        "先算 17 乘以 20 等于 340，再加上 17 乘以 3 等于 51。",
        "391",
        "mixed_language",
        family="thought in chinese",
    )
    yield case("sin x / cos x = ?", "这就是正切函数 tan x。", "tan x", family="not mixed")
    yield case(
        "Who was the greatest poet of the Tang dynasty?",
        "Many would say Li Bai 李白, who wrote 静夜思, or Du Fu 杜甫. I will name both.",
        "Li Bai 李白 and Du Fu 杜甫.",
        family="not mixed",
    )
    yield case(
        "Which novels did Dostoevsky write?",
        "The best known is Crime and Punishment, Преступление и наказание in the original.",
        "Crime and Punishment, The Idiot.",
        family="not mixed",
    )
    yield case(
        "Tell me about the Great Wall of China.",
        "长城是中国古代的军事防御工程，始建于春秋战国时期，我应该先介绍它的历史。",
        "The Great Wall was built over centuries.",
        "mixed_language",
        family="thought in chinese",
    )
    yield case(
        "Find the derivative of x^3.",
        "Okay, we need the 导数 of x^3. The 导数 is 3x^2.",
        "\\boxed{3x^2}",
        "mixed_language",
        family="words mixed in",
    )
    yield case(
        "Was bedeutet das Wort Weltschmerz, und woher kommt es?",
        (
            "Das Wort ist aus Welt und Schmerz zusammengesetzt. Es wird oft mit Jean Paul "
            "verbunden, der es um 1827 verwendet hat."
        ),
        "Es ist ein Schmerz über die Unzulänglichkeit der Welt.",
        family="not mixed",
    )
    yield case(
        rng.choice(QUESTIONS),
        "v_max = 12\nt_min = 3\na_avg = v_max / t_min = 4\nSo the average acceleration is 4.",
        "\\boxed{4}",
        family="not code",
    )


def mixed(rng: random.Random) -> Iterator[dict[str, Any]]:
    into = [
        "因此我们需要重新计算，",
        "让我再想一想。",
        "所以答案是这个数。",
        "首先考虑这个条件，",
        "不过题目说的是整数。",
        "Следовательно, получаем такой ответ. ",
        "ここで計算してみます。",
        "그래서 다시 계산해야 합니다. ",
    ]
    for i, text in enumerate([*MATHS, *PROSE]):
        sentences = text.split(". ")
        at = rng.randrange(1, len(sentences))
        foreign = into[i % len(into)]
        yield case(
            rng.choice(QUESTIONS),
            ". ".join(sentences[:at]) + ". " + foreign + ". ".join(sentences[at:]),
            "\\boxed{3}",
            "mixed_language",
            family="foreign clause",
        )
    for text in MATHS[:4]:
        yield case(
            rng.choice(QUESTIONS),
            text,
            rng.choice(CHINESE).split("\n")[0],
            "mixed_language",
            family="answer in chinese",
        )
        yield case(
            rng.choice(QUESTIONS),
            rng.choice(CHINESE),
            "The answer is \\boxed{12}.",
            "mixed_language",
            family="thought in chinese",
        )
        yield case(
            rng.choice(CHINESE_QUESTIONS),
            text,
            "答案是 \\boxed{12}。",
            "mixed_language",
            family="thought in english",
        )
    for prompt, text in OTHERS.values():
        yield case(
            prompt,
            rng.choice(MATHS[:5]) + "\n\n" + rng.choice(MATHS[:5]),
            text.split("\n")[-1],
            "mixed_language",
            family="english for another",
        )
        yield case(
            rng.choice(QUESTIONS),
            MATHS[0] + "\n\n" + text,
            "\\boxed{3}",
            "mixed_language",
            family="a paragraph in another",
        )
    for word in ("计算一下", "所以应该", "等于多少呢"):
        yield case(
            rng.choice(QUESTIONS),
            (
                f"Okay, so first we {word} the total, and then {word} what is left. The total is "
                "30, so 12 are left."
            ),
            "\\boxed{12}",
            "mixed_language",
            family="words mixed in",
        )
    yield case(
        CHINESE_QUESTIONS[1],
        CHINESE[0]
        + (
            "\n"
            "\n"
            "Wait, let me check this again. The number of heads is 35, so that would mean there "
            "are 23 chickens, which is what we have. But the problem needs the number of rabbits, "
            "so I should also check that."
        ),
        "12只",
        "mixed_language",
        family="english clause in chinese",
    )
    yield case(
        CHINESE_QUESTIONS[3],
        (
            "所以 the answer should be 12, but we need to check this condition. 因为 the number of "
            "legs that each rabbit has is four, 那么 which means there are 12."
        ),
        "12",
        "mixed_language",
        family="english clause in chinese",
    )


def not_mixed(rng: random.Random) -> Iterator[dict[str, Any]]:
    yield from (
        case(q, r, a, family="not mixed")
        for q, r, a in [
            (
                "Translate to Chinese: The cat sleeps on the roof.",
                (
                    "The user wants a translation into Chinese. Cat is 猫, roof is 屋顶, and "
                    "sleeps "
                    "is 睡在. So it becomes 猫睡在屋顶上。"
                ),
                "猫睡在屋顶上。",
            ),
            (
                "How do you say 'good morning' in Russian?",
                "In Russian it is доброе утро. The word order is fixed.",
                "Доброе утро.",
            ),
            (
                "Who wrote War and Peace?",
                'It was Leo Tolstoy (Лев Толстой), and the Russian title is "Война и мир".',
                "Leo Tolstoy",
            ),
            (
                "Explain the name of Tokyo.",
                "Tokyo (東京) means eastern capital. It was renamed from Edo (江戸) in 1868.",
                'Tokyo (東京) means "eastern capital".',
            ),
            (
                "王明 has 3 apples and 李华 has 5. How many do they have together?",
                "王明 has 3 and 李华 has 5, so that is 3 + 5 = 8 together.",
                "王明 and 李华 have \\boxed{8} apples.",
            ),
            (
                "请用 Python 写一个函数，判断一个数是否为质数。",
                (
                    "用户需要一个 Python 函数。可以用 for 循环检查到 sqrt(n)。如果 n < 2，返回 "
                    "False。时间复杂度是 O(sqrt(n))。"
                ),
                (
                    "```python\n"
                    "def is_prime(n):\n"
                    "    # check that the number is not divisible by any of these\n"
                    "    return n > 1 and all(n % i for i in range(2, int(n**0.5) + 1))\n"
                    "```"
                ),
            ),
            (
                "求解方程组 x + y = 5, x - y = 1。",
                (
                    "把两个方程相加，得到 2x = 6，所以 x = 3，y = 2。\\[ x = 3,\\quad y = 2 \\] "
                    "检验：3 + 2 = 5。"
                ),
                "\\boxed{(3, 2)}",
            ),
            (
                "What do α, β and Ω stand for in physics?",
                (
                    "The letters α and β often stand for angles, Ω for resistance in ohms, and λ "
                    "for wavelength. Let me also mention μ and Δ."
                ),
                "α, β: angles; Ω: ohm.",
            ),
            (
                "把下面的句子翻译成英文：我喜欢读书。",
                "用户要求把句子翻译成英文。我喜欢读书 的意思是 I like reading books.",
                "I like reading books.",
            ),
            (
                "Translate into German: The weather is nice and we are going for a walk.",
                (
                    "The weather is nice: das Wetter ist schön. And we are going for a walk: und "
                    "wir gehen spazieren."
                ),
                "Das Wetter ist schön und wir gehen spazieren.",
            ),
            (
                "Which pizza toppings are in a quattro formaggi?",
                (
                    "Quattro formaggi has mozzarella, gorgonzola, fontina and parmigiano reggiano. "
                    "I think that is the usual list."
                ),
                "Mozzarella, gorgonzola, fontina, parmigiano.",
            ),
            (
                "What does the proverb 'c'est la vie' mean?",
                "It is French and means 'that is life'. One says it when nothing can be done.",
                "It means: such is life.",
            ),
            ("12 + 30 * 2 = ?", "First the product: 30 * 2 = 60. Then 12 + 60 = 72.", "72"),
            (
                "∫_0^1 x^2 dx",
                "The antiderivative is x^3/3. So the value is 1/3.",
                "\\boxed{\\frac{1}{3}}",
            ),
            (
                "计算 ∫_0^1 x^2 dx。",
                "原函数是 x^3/3，代入上下限得到 1/3。",
                "\\boxed{\\frac{1}{3}}",
            ),
            (
                "公司使用 GPU 训练 Transformer 模型，batch size 为 32，请估计显存。",
                (
                    "模型参数是 7B，使用 bf16 需要 14 GB。optimizer state 用 AdamW 需要更多，大约 "
                    "56 GB。batch size 为 "
                    "32 时 activation 也很大，可以用 gradient checkpointing。"
                ),
                "大约需要 80 GB 以上的显存，建议使用 ZeRO 或 LoRA。",
            ),
            (
                "What is the meaning of the character 道?",
                (
                    "The character 道 means way or path. In the Daodejing it stands for the "
                    "principle behind all things."
                ),
                '道 means "way".',
            ),
            (
                "Name three German car makers and their cities.",
                (
                    "Volkswagen is in Wolfsburg, BMW in München, and Mercedes-Benz in Stuttgart. "
                    "München is Munich in English."
                ),
                "Volkswagen (Wolfsburg), BMW (Munich), Mercedes-Benz (Stuttgart).",
            ),
            (OTHERS["spanish"][0], OTHERS["spanish"][1], "Se necesitan \\boxed{3} litros."),
            (
                OTHERS["german"][0],
                OTHERS["german"][1],
                "Der Zug ist 90 km/h schnell und kommt um 11 Uhr an.",
            ),
            (OTHERS["french"][0], OTHERS["french"][1], "Il reste 18 chocolats."),
        ]
    )


JSON_PROMPTS = [
    "Extract the name and the age as JSON.",
    "Return only a JSON object with the keys city and country.",
    "Answer in JSON.",
    "Give the result as a JSON list of objects.",
]
GOOD_JSON = [
    '{"name": "Ada", "age": 36}',
    '{"city": "Oslo", "country": "Norway"}',
    '{"total": 12, "items": [{"id": 1, "qty": 4}, {"id": 2, "qty": 8}]}',
    '[{"id": 1, "ok": true}, {"id": 2, "ok": false}]',
]
THOUGHTS = [
    "Okay, so the user wants the name and the age. Let me look at the text again.",
    "Hmm, I need to output the keys in the right order. First, I should find the city.",
    "Wait, the second item has no quantity. Let me think about what to do with it.",
    (
        "The user is asking for a list, so I should return an array. Alternatively, an object "
        "would do."
    ),
    "嗯，用户需要一个 JSON 对象，我应该先提取姓名。",
]


def leaks(rng: random.Random) -> Iterator[dict[str, Any]]:
    for i, good in enumerate(GOOD_JSON):
        prompt, thought = JSON_PROMPTS[i], THOUGHTS[i]
        yield case(
            prompt,
            PROSE[0],
            f"<think>{thought}</think>\n{good}",
            "json_leak",
            family="tags in json answer",
        )
        yield case(
            prompt, PROSE[2], f"{thought}\n\n{good}", "json_leak", family="thought before json"
        )
        yield case(
            prompt,
            PROSE[2],
            (
                "```json\n"
                f"{good}\n"
                "```\n"
                "\n"
                f"Wait, I should check that the keys are right. {THOUGHTS[(i + 1) % 4]}"
            ),
            "json_leak",
            family="thought after json",
        )
        spoilt = json.dumps({"thinking": thought, "result": 5})
        yield case(prompt, PROSE[3], spoilt, "json_leak", family="thought as key")
        spoilt = json.dumps({"answer": f"{thought} {THOUGHTS[(i + 2) % 4]} So it is 5."})
        yield case(prompt, PROSE[3], spoilt, "json_leak", family="thought as value")
        yield case(
            prompt,
            MATHS[0],
            good[:-1] + f', "note": "</think> {thought}"' + good[-1:],
            "json_leak",
            family="tag inside json",
        )
        yield case(
            prompt,
            MATHS[0],
            good[: len(good) // 2]
            + f"\n{thought} {THOUGHTS[(i + 3) % 4]}\n"
            + good[len(good) // 2 :],
            "json_leak",
            family="thought breaks json",
        )


def not_leaks() -> Iterator[dict[str, Any]]:
    for i, good in enumerate(GOOD_JSON):
        yield case(JSON_PROMPTS[i], PROSE[0], good, family="json")
        yield case(JSON_PROMPTS[i], PROSE[2], f"```json\n{good}\n```", family="json")
        yield case(
            JSON_PROMPTS[i],
            PROSE[2],
            (
                "Here is the JSON you asked for:\n"
                "\n"
                "```json\n"
                f"{good}\n"
                "```\n"
                "\n"
                "Let me know if you need other keys."
            ),
            family="json",
        )
    yield case(
        "Return JSON with the keys reasoning and answer.",
        MATHS[0],
        '{"reasoning": "The sum of the first n odd numbers is n squared.", "answer": 1600}',
        family="json",
    )
    yield case(
        'Respond in JSON: {"thoughts": string, "action": string}',
        PROSE[3],
        '{"thoughts": "The fridge is empty.", "action": "buy milk"}',
        family="json",
    )
    yield case(
        (
            'Extract the quotes of this dialogue as JSON: "Wait, where are you going?" she said. '
            '"Okay, I will stay."'
        ),
        PROSE[4],
        '{"quotes": ["Wait, where are you going?", "Okay, I will stay."]}',
        family="json",
    )
    yield case(
        "What is a JSON object?",
        PROSE[0],
        'A JSON object is a set of pairs, such as {"a": 1}. Keys are strings.',
        family="json",
    )
    yield case(
        "Solve the set problem.",
        MATHS[1],
        "The solution set is {2, 3}. Wait, both are integers, so the set is complete.",
        family="json",
    )
    yield case(
        "Give the config as JSON.",
        PROSE[1],
        (
            '{"explanation": "The revolution began in 1789 because of a financial crisis and bread '
            'prices.", "year": 1789}'
        ),
        family="json",
    )
    yield case(
        "Find the interval.",
        MATHS[2],
        "The interval is [2, 5). Let me check the endpoints: 2 is included.",
        family="json",
    )
    yield case(
        "Return JSON with the review and its sentiment.",
        PROSE[1],
        (
            '{"review": "I had to wait for an hour, and the waiter was not okay with it.", '
            '"sentiment": "negative"}'
        ),
        family="json",
    )


def paragraphs(rng: random.Random) -> Iterator[dict[str, Any]]:
    flat = [" ".join(text.split()) for text in [*MATHS, *PROSE]]
    for _ in range(24):
        rng.shuffle(flat)
        yield case(
            rng.choice(QUESTIONS),
            " ".join(flat[: rng.randint(11, 13)]),
            "\\boxed{1}",
            "long_paragraph",
            family="long paragraph",
        )
    for _ in range(8):
        yield case(
            rng.choice(QUESTIONS),
            "\n\n".join([flat[0], " ".join(rng.sample(flat, 12)), flat[1]]),
            "\\boxed{1}",
            "long_paragraph",
            family="long paragraph among others",
        )
    joined = "".join("".join(text.split()) for text in CHINESE)
    for k in (3, 4, 5):
        other = "".join(
            f"第{n}种情况，{joined[n * 17 % 90 : n * 17 % 90 + 60]}。" for n in range(k * 8)
        )
        yield case(
            CHINESE_QUESTIONS[1],
            other,
            "\\boxed{1}",
            "long_paragraph",
            *(["looping"] if k > 3 else []),  # 32 times and more over the same three texts
            family="long paragraph chinese",
        )
    for _ in range(8):
        yield case(
            rng.choice(QUESTIONS),
            " ".join(rng.sample(flat, 4)) + "\n" + " ".join(rng.sample(flat, 4)),
            "\\boxed{1}",
            family="not a long paragraph",
        )
    yield case(
        QUESTIONS[0],
        "\n".join(f"{n}. {flat[n % 13][:150]} ({n})" for n in range(60)),
        "\\boxed{1}",
        "looping",  # the same thirteen lines over and over
        family="not a long paragraph",
    )


CODE = [
    "```python\ndef area(r):\n    return 3.14159 * r * r\n```",
    "```\nfor i in range(10):\n    print(i * i)\n```",
    (
        "def count(words):\n"
        "    total = 0\n"
        "    for word in words:\n"
        "        total += len(word)\n"
        "    return total"
    ),
    "```cpp\n#include <iostream>\nint main() { std::cout << 1; }\n```",
    "import math\nn = int(input())\nprint(math.factorial(n))",
    "```sql\nSELECT name FROM users WHERE age > 30;\n```",
    "function add(a, b) {\n  const sum = a + b;\n  return sum;\n}",
    "```js\nconst xs = [1, 2, 3].map(x => x * 2);\nconsole.log(xs);\n```",
    (
        "class Node:\n"
        "    def __init__(self, value):\n"
        "        self.value = value\n"
        "        self.next = None"
    ),
    '```java\npublic static void main(String[] args) {\n    System.out.println("hi");\n}\n```',
    '#include <stdio.h>\nint main(void) {\n    printf("%d\\n", 42);\n    return 0;\n}',
    '```bash\nfor f in *.txt; do wc -l "$f"; done\n```',
    "~~~python\nx = sum(range(5))\nprint(x)\n~~~",
    (
        "    while lo < hi:\n"
        "        mid = (lo + hi) // 2\n"
        "        if ok(mid):\n"
        "            hi = mid\n"
        "        else:\n"
        "            lo = mid + 1"
    ),
    (
        "SELECT a, b\n"
        "FROM t\n"
        "WHERE a > 3;\n"
        "INSERT INTO t VALUES (1, 2);\n"
        "UPDATE t SET a = 2;\n"
        "DELETE FROM t WHERE b = 1;"
    ),
]


def code(rng: random.Random) -> Iterator[dict[str, Any]]:
    for i, block in enumerate(CODE):
        before, after = rng.choice(PROSE), rng.choice(MATHS)
        yield case(
            rng.choice(QUESTIONS),
            f"{before}\n\nI could write it like this:\n\n{block}\n\n{after}",
            "\\boxed{2}",
            "code_in_reasoning",
            family="code",
        )
        yield case(
            "Write a program for this.",
            f"Let me sketch it.\n{block}",
            f"Here it is:\n\n{CODE[(i + 1) % len(CODE)]}",
            "code_in_reasoning",
            family="code for a program",
        )


def not_code() -> Iterator[dict[str, Any]]:
    for block in CODE[:8]:
        yield case(
            "Write a program for this.",
            PROSE[3],
            f"Here it is:\n\n{block}",
            family="code in the answer only",
        )
    yield from (
        case(QUESTIONS[1], r, "\\boxed{2}", family="not code")
        for r in [
            "x = 5\ny = 2x + 1\nz = x + y = 16\nSo z is 16.",
            "f(x) = x^2 + 1;\ng(x) = 2x;\nh(x) = f(g(x)) = 4x^2 + 1;\nThat is all.",
            (
                "If n is even:\n"
                "then n = 2k, and n^2 = 4k^2.\n"
                "If n is odd:\n"
                "then n = 2k + 1.\n"
                "For all n:\n"
                "the square leaves 0 or 1."
            ),
            (
                "The function `len(xs)` gives the number of items, and `xs[0]` the first. So I can "
                "say that in words."
            ),
            "```\n  12\n× 34\n----\n  48\n 36\n----\n 408\n```\nSo the product is 408.",
            "```text\nA -- B -- C\n     |\n     D\n```\nThe graph has four vertices.",
            (
                "Let a = 3, b = 4.\n"
                "Then c = sqrt(a^2 + b^2) = 5.\n"
                "Area = a*b/2 = 6.\n"
                "Perimeter = a + b + c = 12."
            ),
            (
                "I would use a for loop over the list, print each item, and return the sum. In "
                "Python that would be three lines. But the question asks only for the idea."
            ),
            (
                "\\begin{align}\n"
                "a &= b + c \\\\\nd &= e \\cdot f \\\\\n\\end{align}\n"
                "So a + d = b + c + ef."
            ),
            (
                "- first: import the data\n"
                "- then: clean it\n"
                "- while cleaning: count the gaps\n"
                "- finally: return the report"
            ),
            "Given:\n  speed = 60 km/h\n  time = 2 h\nTo find:\n  distance = speed × time = 120 km",
            "P(A) = 0.3, P(B) = 0.5\nP(A ∩ B) = 0.15\nP(A ∪ B) = 0.3 + 0.5 - 0.15 = 0.65",
        ]
    )


REFUSALS = [
    "I'm sorry, but I can't assist with that request.",
    "I cannot help with that. It would put people at risk.",
    (
        "I am sorry, I cannot answer that question. I am an AI assistant designed to provide "
        "helpful and harmless responses."
    ),
    "Sorry, I can't provide instructions for building weapons.",
    "I'm unable to provide medical dosages for this purpose. Please consult a doctor.",
    "As an AI language model, I cannot create content of that kind.",
    (
        "I won't help you to write malware. If you want to learn about security, I can suggest "
        "courses."
    ),
    "I must decline this request, as it goes against my guidelines.",
    "Unfortunately, I am not able to generate images of real people in this way.",
    "**I'm sorry, but I can't help with that.**",
    "I appreciate your interest, but I can't discuss this topic. Let's talk about something else.",
    "Sorry, that's beyond my current scope. Let's talk about something else.",
    "I’m sorry, but I cannot fulfill this request.",
    "I apologize, but I will not provide that information.",
    "很抱歉，我无法提供这方面的帮助。",
    "对不起，我不能回答这个问题。让我们换个话题再聊聊吧。",
    "你好，这个问题我暂时无法回答，让我们换个话题再聊聊吧。",
    "抱歉，我还没有学会如何思考这类问题，我擅长数学、代码、逻辑类的题目，欢迎与我交流。",
    "Lo siento, pero no puedo ayudar con esa solicitud.",
    "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
    "Es tut mir leid, aber dabei kann ich dir nicht helfen.",
    "Извините, но я не могу помочь с этим.",
    "申し訳ありませんが、そのご質問にはお答えできません。",
]
NO_REFUSALS = [
    "I'm sorry for the confusion earlier. The capital of Australia is Canberra.",
    "We cannot factor this polynomial over the integers, so the answer is that it is irreducible.",
    "I cannot find any integer solution, so the equation has none.",
    "Unfortunately, the series does not converge, and there is no closed form.",
    "The store can't provide a refund after 30 days, so Anna gets nothing back.",
    (
        "Dear Ms Li,\n"
        "\n"
        "I'm sorry, but I can't attend the meeting on Monday. Could we meet on Tuesday?\n"
        "\n"
        "Best regards,\n"
        "Tom"
    ),
    "It cannot be determined from the given information whether x is positive.",
    "You can't assist a bird by feeding it bread; seeds are better.",
    'He said: "I won\'t go", and stayed at home.',
    "No, you are not able to see Mars tonight, because it is below the horizon.",
    "The function is not able to return two values in this language, but you can return a tuple.",
    "A virus can't reproduce by itself; it needs a host cell.",
    "I can help with that! First, preheat the oven to 180 degrees.",
    "Sorry to hear that you are ill. Drink plenty of water and rest.",
    "I would not use a bubble sort here, because it is slow.",
    "If the guard refuses to help, the prisoners cannot escape.",
    "抱歉让你久等了，答案是十二。",
    "这个方程无法用初等函数表示，所以没有解析解。",
    "The answer is no: we can't create energy from nothing.",
    "The bank declined the request, so she applied to another one.",
]


def refusals() -> Iterator[dict[str, Any]]:
    for i, text in enumerate(REFUSALS):
        chinese = (
            not text.isascii() and any("\u4e00" <= c <= "\u9fff" for c in text) and "ご" not in text
        )
        if chinese:
            yield case(CHINESE_QUESTIONS[3], CHINESE[2], text, "refusal", family="refusal")
        elif i >= 18:
            prompt, thought = list(OTHERS.values())[[0, 2, 1, 3, 4][i - 18]]
            yield case(prompt, thought, text, "refusal", family="refusal")
        else:
            yield case("Tell me how to do it.", PROSE[2], text, "refusal", family="refusal")
            yield case(
                "Can you do this for me?",
                PROSE[0],
                text + "\n\nIs there anything else I can do for you?",
                "refusal",
                family="refusal and offer",
            )


def not_refusals() -> Iterator[dict[str, Any]]:
    for text in NO_REFUSALS:
        chinese = any("\u4e00" <= c <= "\u9fff" for c in text)
        yield case(
            CHINESE_QUESTIONS[3] if chinese else QUESTIONS[0],
            CHINESE[1] if chinese else MATHS[3],
            text,
            family="not a refusal",
        )
    yield case(
        "Tell me.",
        MATHS[0],
        "I cannot give more than the number: \\boxed{1600}.",
        family="not a refusal",
    )


# What follows was written after the rules had been fixed on what stands above.

H_MATHS = [
    (
        "Alright, let's see. A farmer has 48 metres of fence and wants a rectangle of the largest "
        "area. If one side is x, the other is 24 - x. The area x(24 - x) is largest at x = 12, a "
        "square, with 144 square metres.\n\nHmm, but one side is a wall, isn't it? Let me read it "
        'again: "against a wall". So only three sides need fence: '
        "2x + y = 48. The area is x(48 - "
        "2x), largest at x = 12, y = 24. That gives 288."
    ),
    (
        "First I compute gcd(252, 198). 252 = 198 + 54; 198 = 3·54 + 36; 54 = 36 + 18; 36 = 2·18. "
        "So it is 18.\n"
        "\n"
        "Then lcm = 252·198/18 = 2772."
    ),
    (
        "$\\int_0^{\\pi} \\sin x\\,dx = [-\\cos x]_0^{\\pi} = 2$. And $\\sum_{k=1}^n k = "
        "\\frac{n(n+1)}{2}$, so for $n=20$ it is $210$.\n"
        "\n"
        "The difference is $208$."
    ),
    (
        "Suppose p/q is in lowest terms and (p/q)^2 = 2. Then p^2 = 2q^2, so p is even, p = 2r, "
        "and 4r^2 = 2q^2, so q is even as well. That contradicts lowest terms. Hence no such "
        "fraction exists."
    ),
    (
        "The clock shows 3:40. The minute hand is at 240 degrees, and the hour hand at 3·30 + 20 = "
        "110 degrees. The difference is 130 degrees, which is less than 180, so the angle is 130 "
        "degrees.\n"
        "\n"
        "Wait, the hour hand moves half a degree per minute: 40·0.5 = 20. Yes."
    ),
]
H_PROSE = [
    (
        "The user is asking me to compare two phones. One has a better camera, the other a longer "
        "battery life. I don't know what matters more to them, so I should list both and ask.\n"
        "\n"
        "Price is a factor too. The first costs 699, the second 549. I might put this into a small "
        "table, and then give a recommendation for each kind of buyer."
    ),
    (
        "Let me recall what is known about coral bleaching. When the water is too warm, corals "
        "expel the algae that live in their tissue. Without these they lose their colour and a "
        "large part of their food. If it cools down in time, they can recover.\n"
        "\n"
        "I want to mention that warming, acidity and pollution act together, but keep it to two "
        "paragraphs."
    ),
    (
        "This is a logic puzzle with three houses. The Norwegian lives in the first house, the red "
        "house is directly left of the blue one, and the cat's owner drinks tea. If the first "
        "house were blue, nothing could be left of it. So the blue house is second or third.\n"
        "\n"
        "Now the tea: it isn't drunk in the red house. Then the cat isn't there."
    ),
]
H_CHINESE = [
    (
        "好的，我来分析一下这道题。甲乙两地相距 360 千米，汽车每小时行 72 千米，那么需要 5 小时。"
        "\n\n但是题目里说途中休息了半小时，所以一共是 5.5 小时。"
    ),
    (
        "这首诗写的是秋天的景色，表达了诗人思念家乡的感情。我需要先解释词语的意思，再分析修辞手法，"
        "最后总结主题。\n\n注意不要写得太长，控制在三百字以内。"
    ),
]
H_QUESTIONS = [
    "How large is it at most?",
    "Work out the result, step by step.",
    "Which option is correct, and why?",
    "Could you explain what happens here?",
]
H_SENTENCES = [
    "Then again, we could have counted the corners twice.",
    "So the total must be even.",
    "Okay, let's try a different approach here.",
    "The other option is to subtract 4 from both sides.",
    "I keep going in circles, so let me think about it differently.",
]


def held(rng: random.Random) -> Iterator[dict[str, Any]]:
    def make(prompt: str, reasoning: str, answer: str, *flags: str, family: str) -> dict[str, Any]:
        return case(prompt, reasoning, answer, *flags, family=family, held=True)

    for i, text in enumerate([*H_MATHS, *H_PROSE]):
        yield make(
            rng.choice(H_QUESTIONS), text, f"**Answer:** \\(\\boxed{{{i}}}\\)", family="clean"
        )
        yield make(
            rng.choice(H_QUESTIONS),
            "\n\n".join([text, *rng.sample(H_MATHS, 3)]),
            "See above.",
            family="clean",
        )
        yield make(
            rng.choice(H_QUESTIONS),
            text,
            f"Step 1: read.\nStep 2: compute.\nStep 3: write \\boxed{{{i}}}.",
            family="clean",
        )
    for text in H_CHINESE:
        yield make("请详细解答下面的问题。", text, "综上所述，见上文。", family="clean chinese")
    # loops
    for i, sentence in enumerate(H_SENTENCES):
        yield make(
            rng.choice(H_QUESTIONS),
            H_MATHS[i] + " " + f"{sentence}\n" * rng.randint(5, 80),
            "",
            "looping",
            family="loop",
        )
        pair = f"{sentence} {H_SENTENCES[i - 1]} "
        yield make(
            rng.choice(H_QUESTIONS),
            H_MATHS[i] + "\n\n" + pair * rng.randint(4, 20) + sentence[: rng.randint(3, 30)],
            "",
            "looping",
            family="loop of two",
        )
        yield make(
            rng.choice(H_QUESTIONS),
            H_PROSE[i % 3],
            "It is 4. " + f"Final answer: {i}. " * 40,
            "looping",
            family="loop of answers",
        )
    period = "\n\n".join([H_PROSE[0], H_MATHS[3], H_PROSE[2], H_MATHS[1]])
    yield make(
        H_QUESTIONS[1],
        H_MATHS[0] + "\n\n" + "\n\n".join([period] * 4),
        "",
        "looping",
        family="long period",
    )
    yield make(
        H_QUESTIONS[1],
        "\n\n".join([period] * 3) + "\n\n" + period[:300],
        "",
        "looping",
        family="long period",
    )
    yield make(
        "请详细解答下面的问题。",
        H_CHINESE[0] + "\n" + "不过，我们还需要考虑另一种可能。再看一遍题目。" * 9,
        "",
        "looping",
        family="loop chinese",
    )
    yield make(H_QUESTIONS[0], H_MATHS[2] + " $x = 2$, " * 40, "", "looping", family="loop formula")
    yield make(H_QUESTIONS[0], H_MATHS[4] + " 7" * 150, "", "looping", family="loop digits")
    yield make(
        H_QUESTIONS[0],
        H_MATHS[4]
        + "\n"
        + "\n".join(
            rng.choice(
                [
                    "But is it prime?",
                    "Check the parity again.",
                    "Maybe count pairs instead.",
                    "That gives 12 again.",
                ]
            )
            for _ in range(90)
        ),
        "",
        "looping",
        family="circling",
    )
    # not loops
    yield from (
        make(q, r, a, family="not a loop")
        for q, r, a in [
            (
                H_QUESTIONS[1],
                "Let me list the squares: "
                + ", ".join(f"{n}² = {n * n}" for n in range(1, 60))
                + ".",
                "\\boxed{3481}",
            ),
            (
                H_QUESTIONS[1],
                "\n".join(
                    f"Round {k}: A has {k + 3}, B has {2 * k}, C has {30 - 3 * k}."
                    for k in range(1, 10)
                ),
                "C runs out in round 10.",
            ),
            (
                H_QUESTIONS[2],
                "\n\n".join(
                    f"Option {c}: {t} This is {v}."
                    for c, t, v in [
                        ("A", "The mass doubles.", "wrong, because mass is conserved"),
                        ("B", "The volume doubles.", "right"),
                        ("C", "The density doubles.", "wrong, it halves"),
                        ("D", "Nothing changes.", "wrong"),
                    ]
                ),
                "\\boxed{B}",
            ),
            (
                H_QUESTIONS[1],
                (
                    "Binary: 0000, 0001, 0010, 0011, 0100, 0101, 0110, 0111, 1000, 1001, 1010, "
                    "1011, 1100, 1101, 1110, 1111. Count those without two ones in a row."
                ),
                "\\boxed{8}",
            ),
            (
                H_QUESTIONS[1],
                "\n".join(["a b c", "b c a", "c a b", "a c b", "c b a", "b a c"] * 1)
                + "\nThese are all six orders.",
                "6",
            ),
            (
                H_QUESTIONS[0],
                (
                    "Wait, no. Wait, yes: 12. Wait, is it? 3·4 = 12. Wait, I forgot the border: 12 "
                    "+ 2 = 14. Wait, both sides: 12 + 4 = 16. Okay, 16."
                ),
                "\\boxed{16}",
            ),
            (
                H_QUESTIONS[1],
                "Euler: y_{n+1} = y_n + 0.1·y_n.\n"
                + "\n".join(f"y_{n} = {1.1**n:.6f}" for n in range(40)),
                "\\boxed{45.26}",
            ),
            (
                H_QUESTIONS[1],
                "The sequence is "
                + "1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3"
                + " and so on. The 50th term is the 2nd of a block.",
                "\\boxed{2}",
            ),
            (
                "Print a 5 by 8 grid of dots.",
                "A row is eight dots, and there are five rows.",
                "........\n........\n........\n........\n........",
            ),
            (
                H_QUESTIONS[2],
                "\n".join(
                    f"Q{k}. True. The statement follows from lemma {k % 4 + 1}."
                    for k in range(1, 13)
                ),
                "All are true.",
            ),
        ]
    )
    # languages
    for i, (text, foreign) in enumerate(
        zip(
            [*H_MATHS, *H_PROSE],
            [
                "这样就可以了。",
                "那么面积就是最大的。",
                "注意这里要小心，",
                "也就是说",
                "换句话说，两边相等。",
                "Проверим это ещё раз.",
                "つまり、そういうことです。",
                "결국 같은 값입니다.",
            ],
            strict=True,
        )
    ):
        half = text.index(". ", len(text) // 3) + 2
        yield make(
            rng.choice(H_QUESTIONS),
            text[:half] + foreign + " " + text[half:],
            f"\\boxed{{{i}}}",
            "mixed_language",
            family="foreign clause",
        )
    yield make(
        H_QUESTIONS[1], H_MATHS[0], H_CHINESE[0], "mixed_language", family="answer in chinese"
    )
    yield make(
        H_QUESTIONS[3],
        H_CHINESE[1],
        "It is about autumn and homesickness.",
        "mixed_language",
        family="thought in chinese",
    )
    yield make(
        "甲乙两地相距360千米，汽车每小时行72千米，途中休息半小时，一共要多少小时？",
        H_MATHS[4],
        "5.5 小时",
        "mixed_language",
        family="thought in english",
    )
    yield make(
        "この文章を要約してください。海はとても広くて深いです。",
        H_PROSE[1],
        "海は広くて深い。",
        "mixed_language",
        family="thought in english",
    )
    yield make(
        "¿Qué es la fotosíntesis? Explícalo con tus palabras.",
        H_PROSE[1],
        "La fotosíntesis es el proceso por el que las plantas fabrican su alimento.",
        "mixed_language",
        family="thought in english",
    )
    yield make(
        "Wie entsteht ein Regenbogen, und warum ist er rund?",
        H_PROSE[0],
        "Das Licht wird in den Tropfen gebrochen.",
        "mixed_language",
        family="thought in english",
    )
    yield make(
        "Quantas horas há em três dias? Explique como você calculou.",
        H_MATHS[4],
        "São 72 horas.",
        "mixed_language",
        family="thought in english",
    )
    yield make(
        H_QUESTIONS[1],
        H_PROSE[2],
        (
            "Die rote Katze wohnt nicht in dem blauen Haus, und das ist auch die einzige Lösung, "
            "die wir haben."
        ),
        "mixed_language",
        family="answer in german",
    )
    yield make(
        H_QUESTIONS[1],
        (
            "Pour commencer, nous avons une clôture de 48 mètres, et nous voulons une aire "
            "maximale. Donc nous devons chercher le maximum, et cette fonction est une parabole. "
            "Alors le maximum est dans le milieu."
        ),
        "\\boxed{144}",
        "mixed_language",
        family="thought in french",
    )
    yield from (
        make(q, r, a, family="not mixed")
        for q, r, a in [
            (
                "Who was Confucius?",
                (
                    "Confucius (孔子, Kǒngzǐ) was a Chinese philosopher. His sayings are in the "
                    "Analects (论语). I should mention the Five Classics."
                ),
                "Confucius (孔子) was a philosopher of the Spring and Autumn period.",
            ),
            (
                "Write 'thank you' in Japanese and Korean.",
                "In Japanese: ありがとうございます. In Korean: 감사합니다.",
                "ありがとうございます / 감사합니다",
            ),
            (
                "What is the capital of Georgia (the country)?",
                "The capital is Tbilisi (თბილისი).",
                "Tbilisi",
            ),
            (
                "解释一下什么是 API，并举例说明 REST API 的用法。",
                (
                    "API 是应用程序接口。REST API 使用 HTTP 方法，例如 GET、POST、PUT、DELETE。"
                    "可以举一个 GET /users/1 "
                    "的例子，返回 JSON。"
                ),
                (
                    "API（Application Programming Interface）是应用程序之间的接口，例如 `GET "
                    "/users/1`。"
                ),
            ),
            (
                "求极限 lim_{x→0} sin(x)/x。",
                "利用洛必达法则，分子求导得 cos x，分母求导得 1，所以极限是 1。",
                "\\boxed{1}",
            ),
            ("2x+3=11", "Subtract 3: 2x = 8. So x = 4.", "x = 4"),
            ("2x+3=11", "两边减去 3，得到 2x = 8，所以 x = 4。", "x = 4"),
            (
                "What does 'Schadenfreude' mean?",
                (
                    "It is a German word for pleasure at another's misfortune, from Schaden (harm) "
                    "and Freude (joy)."
                ),
                "Joy at the misfortune of others.",
            ),
            (
                "In the equation F = ma, what does each letter stand for? Use μ for friction.",
                (
                    "F is force, m mass, a acceleration. With friction, F − μN = ma, where N is "
                    "the normal force; θ would be the angle of the slope."
                ),
                "F: force, m: mass, a: acceleration, μ: friction.",
            ),
            (
                "Comment dit-on « chien » en anglais ?",
                (
                    "La question est simple : chien se dit dog en anglais. Donc je peux répondre "
                    "avec une phrase courte."
                ),
                "« Chien » se dit *dog* en anglais.",
            ),
            (
                "Summarise the plot of La vita è bella.",
                (
                    "La vita è bella is a film by Roberto Benigni of 1997. A father hides the "
                    "horror of the camp from his son by making it a game."
                ),
                "A father protects his son by means of a game.",
            ),
            (
                "José and Zoë share €30 in the ratio 2:3. How much does each get?",
                "There are five parts, so each part is €6. José gets €12 and Zoë gets €18.",
                "José: €12, Zoë: €18",
            ),
            (
                "Which of these is a palindrome: топот, дом, кот?",
                (
                    "топот read backwards is топот. дом becomes мод, кот becomes ток. So only "
                    "топот is one."
                ),
                "топот",
            ),
            (
                "How many strokes has the character 永?",
                "The character 永 has five strokes, and it is used to teach all eight basic ones.",
                "5",
            ),
            ("Solve for x: 3x - 7 = 11", "3x = 18, so x = 6.", "\\[x = 6\\]"),
        ]
    )
    # json
    docs = [
        '{"title": "Dune", "year": 1965}',
        '[{"q": 1, "a": "B"}, {"q": 2, "a": "D"}]',
        '{"valid": false, "errors": ["no date"]}',
    ]
    asks = [
        "Give title and year of the book as a JSON object, nothing else.",
        "Output a JSON array with your answers.",
        "Validate the form; reply with JSON.",
    ]
    talk = [
        (
            "Alright, the user wants just the title and the year. I need to make sure the year is "
            "a number."
        ),
        "Let me think. Question 1 is about cells, so B. Hmm, question 2 could be C or D.",
        "I should check the date first. Wait, there is no date at all.",
    ]
    for doc, ask, said in zip(docs, asks, talk, strict=True):
        yield make(
            ask, H_PROSE[0], f"{said}\n</think>\n{doc}", "json_leak", family="thought, tag, json"
        )
        yield make(
            ask,
            H_PROSE[0],
            f"{said}\n\n```json\n{doc}\n```",
            "json_leak",
            family="thought before json",
        )
        yield make(
            ask,
            H_MATHS[1],
            json.dumps({"chain_of_thought": said, "output": 1}),
            "json_leak",
            family="thought as key",
        )
        yield make(
            ask,
            H_MATHS[1],
            json.dumps({"reasoning": said, "output": 1}, indent=2),
            "json_leak",
            family="thought as key",
        )
        yield make(
            ask,
            H_MATHS[1],
            json.dumps({"value": f"{said} Okay, so maybe I should leave it out. {said}"}),
            "json_leak",
            family="thought as value",
        )
        yield make(
            ask, H_MATHS[1], f"<think>\n{said}\n</think>\n\n{doc}", "json_leak", family="tags"
        )
        yield make(ask, H_PROSE[1], doc, family="json")
        yield make(ask, H_PROSE[1], f"```json\n{doc}\n```", family="json")
        yield make(ask, H_PROSE[1], f"Sure! Here is the result:\n\n{doc}", family="json")
    yield make(
        "Describe the scene as JSON with keys place and mood.",
        H_PROSE[1],
        '{"place": "a quiet harbour", "mood": "thoughtful, a little sad"}',
        family="json",
    )
    yield make(
        "Write a JSON schema for a person.",
        H_PROSE[1],
        (
            '{"type": "object", "properties": {"thoughtful": {"type": "boolean"}, "name": {"type": '
            '"string"}}}'
        ),
        family="json",
    )
    yield make(
        "Solve it and give steps.",
        H_MATHS[3],
        "Let me check the set {1, 2, 3}: okay, it has 3 elements, [1] is a subset.",
        family="json",
    )
    yield make(
        "Return JSON with an explanation.",
        H_PROSE[2],
        (
            '{"explanation": "The hour hand moves half a degree per minute, so at 3:40 it stands '
            "at "
            '110 degrees.", "angle": 130}'
        ),
        family="json",
    )
    # paragraphs
    flat = [" ".join(text.split()) for text in [*H_MATHS, *H_PROSE]]
    for k in range(10):
        rng.shuffle(flat)
        yield make(
            H_QUESTIONS[1],
            "\n\n".join(
                [
                    "Let me begin.",
                    " ".join([*flat, *rng.sample([" ".join(t.split()) for t in MATHS], 3 + k % 3)]),
                ]
            ),
            "\\boxed{1}",
            "long_paragraph",
            family="long paragraph",
        )
        yield make(H_QUESTIONS[1], "\n".join(flat), "\\boxed{1}", family="not a long paragraph")
    # code
    for block in [
        '```rust\nfn main() {\n    println!("{}", 1 + 1);\n}\n```',
        "```go\nfunc main() { fmt.Println(1) }\n```",
        "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
        "let total = 0;\nfor (let i = 0; i < 10; i++) {\n  total += i;\n}\nconsole.log(total);",
        "```\nimport numpy as np\nx = np.zeros(3)\n```",
        'int x = 5;\nint y = x * 2;\nprintf("%d", y);\nreturn 0;',
        "```html\n<p>Hello</p>\n```",
        "from collections import Counter\nc = Counter(words)\nprint(c.most_common(3))",
        "```R\nx <- c(1, 2, 3)\nmean(x)\n```",
        "try:\n    value = int(text)\nexcept ValueError:\n    value = None",
        "CREATE TABLE t (id INT);\nINSERT INTO t VALUES (1);\nSELECT * FROM t;",
        "```python\n# add two numbers\nadd = lambda a, b: a + b\n```",
        "public int size() {\n    return this.count;\n}",
    ]:
        yield make(
            "Write the function for me.",
            f"{H_PROSE[2]}\n\nSomething like\n\n{block}\n\nshould do.",
            "Done.",
            "code_in_reasoning",
            family="code",
        )
    yield from (
        make(H_QUESTIONS[1], r, "\\boxed{4}", family="not code")
        for r in [
            (
                "Let x = 3.\n"
                "Let y = x + 1 = 4.\n"
                "So x*y = 12;\n"
                "and x + y = 7;\n"
                "hence the answer is 12 - 7 = 5."
            ),
            "A: 12 km\nB: 15 km\nC: 9 km\nTotal: 36 km",
            "S_1 = 1\nS_2 = 1 + 2 = 3\nS_3 = 3 + 3 = 6\nS_n = n(n+1)/2",
            (
                "We return to the first equation.\n"
                "For every n there is an m.\n"
                "While this holds, the sum grows.\n"
                "If not, it stops."
            ),
            (
                "The loop invariant of `while i < n` is that `s` holds the sum so far. So at the "
                "end s is the total."
            ),
            "```\n1 2 3\n4 5 6\n7 8 9\n```\nThe diagonal sums to 15.",
            "v(t) = 3t^2\na(t) = 6t\na(2) = 12\nx(2) = 8",
            "\\[\nA = \\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}\n\\]\ndet(A) = -2.",
            (
                "1. Import taxes rise.\n"
                "2. Exports fall.\n"
                "3. The public deficit grows;\n"
                "4. the currency weakens."
            ),
            "Given a = 2;\nb = 3;\nc = a + b;\nwe need c squared, so 25.",
        ]
    )
    # refusals
    for text in [
        "I can't help you with that.",
        "I'm really sorry, but I cannot comply with this request.",
        "I am not able to assist with illegal activities.",
        "Sorry, but I can't provide that.",
        "I'm not comfortable writing that kind of story.",
        "I have to decline: this could hurt someone.",
        "Thank you for asking, however I cannot give advice on how to hurt others.",
        "As an AI assistant, I'm unable to share personal data about private people.",
        "I cannot generate that. If you are in danger, please call the police.",
        "My apologies, but I'm not able to create that content.",
        "I won't provide a recipe for this, since it is dangerous.",
        "Hi! I can't engage in this conversation. Shall we talk about something else?",
    ]:
        yield make("Do as I say.", H_PROSE[0], text, "refusal", family="refusal")
    for text in [
        "我不能协助你做这件事。",
        "抱歉，这个话题我不便讨论。",
        "作为一个人工智能助手，我无法提供此类信息。",
    ]:
        yield make("请告诉我怎么做。", H_CHINESE[1], text, "refusal", family="refusal")
    for text in [
        "I can't believe it either, but the answer is 130 degrees.",
        "You cannot divide by zero, so the expression is undefined.",
        "I'm sorry you had a bad day! Try a short walk.",
        "The knights refuse to help the king, and the castle falls.",
        "I was unable to prove the stronger claim, but the weaker one holds: n is even.",
        "They won't give a discount on Sundays.",
        "No. A contract cannot be changed by one side alone.",
        "It is not possible to draw such a graph, because the sum of degrees would be odd.",
        "Sorry! The correct value is 42, not 41.",
        "I don't think that is right: water boils at a lower temperature on a mountain.",
        "We are unable to conclude that the die is unfair.",
        "He can't answer the phone while driving.",
        "I cannot be sure without the figure, but assuming a right angle, the answer is 5.",
    ]:
        yield make(H_QUESTIONS[2], H_MATHS[1], text, family="not a refusal")
