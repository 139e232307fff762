r"""Faults in the texts of a trace: refusals, code, leaks, long paragraphs.

A leak is reasoning in an answer that is JSON. Rules on the surface of the text, each with its
threshold; linear in its length, and for any text.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from batchr1.reasoning.formats import LIKE_A_TAG

# long_paragraph: bytes of UTF-8 between two line breaks; about 400 words of English, 800 characters
# of Chinese
LONG_PARAGRAPH_BYTES = 2400

# refusal
REFUSAL_CHARS = 400  # a refusal stands at the beginning of the answer,
MAX_REFUSAL_CHARS = 2000  # and is not followed by much

# code_in_reasoning
MIN_CODE_LINES = 3  # without a fence: lines that read as code (a declaration is worth two), within
CODE_WINDOW = 6  # so many lines that are not blank
MAX_CODE_LINE_CHARS = 300

# json_leak
MIN_LEAK_CHARS = 20  # of text around the JSON
MIN_VALUE_MARKS = 2  # different marks of deliberation in what the JSON itself says

_REFUSES = (
    r"(?:can(?:'t|not| not)|(?:am |'m )?(?:un|not )able to|won't|will not|(?:must|have to) "
    r"(?:decline|refuse)|decline"
    r"|refuse|(?:am |'m )not "
    r"(?:comfortable|going|allowed|permitted|programmed|designed|able)|don't "
    r"feel comfortable)"
)
_OBJECT = (
    r"(?:help|assist|answer|provid|comply|fulfil|creat|writ|generat|shar|discuss|support|engag|do "
    r"(?:that|this|so)"
    r"|continu|offer|giv|respond|participat|promot|explain "
    r"how|teach|instruct|produc|complet|process|facilitat"
    r"|encourag|with (?:that|this)|talk about|comment|recommend|advise|disclose|reveal|carry "
    r"out|meet|accommodate"
    r"|address|proceed)"
)
_REFUSAL = re.compile(
    r"(?:^|[.!?:\n,;]|\bbut|\bhowever|\bso|\bafraid|\bsorry)\s*"
    r"(?:therefore,? |unfortunately,? |sorry,? |and )?"
    rf"(?:as an? [^.,\n]{{1,60}}, )?\bi(?: really| simply| just| also)? ?{_REFUSES}"
    rf"(?: to| be| in| with| ever| really| simply| actually| knowingly){{0,3}} {_OBJECT}"
    r"|i (?:must|have to) (?:respectfully |politely )?(?:decline|refuse)"
    r"|i(?: respectfully| politely)? decline (?:to|this|that|your)"
    r"|(?:that's|that is|this is) (?:beyond|outside) (?:what i can do|(?:my|the) (?:current "
    r")?(?:scope|abilities|capabilities))"
    r"|\bi(?:'m| am) (?:sorry|afraid),? (?:but )?(?:that )?i (?:can|could) only\b"
    r"|against my (?:guidelines|programming|principles|policy|policies|values|ethical)"
    r"|\bi(?:'m| am) sorry,? (?:but )?(?:i can(?:'t|not)|no)(?: do (?:that|this|it))?[.!]?$"
    r"|(?:我|本人|作为[^，。,\n]{0,20}[，,]我?)(?:目前|暂时|也|还)?(?:无法|不能|不可以|没办法|没有办法|拒绝|不便|不会)"
    r"(?:为您|为你|向您|向你|给您|给你|对此)?(?:提供|回答|协助|帮助|满足|完成这|讨论|生成|参与|继续|处理|给出|支持|编写|撰写|回应|创作)"
    r"|还没有学会(?:如何)?(?:思考|回答)|(?:换个|换一个)(?:其他)?话题|超出了?我的(?:能力|知识)?范围"
    r"|(?:no puedo|no podré|me es imposible) "
    r"(?:ayudar|proporcionar|responder|asist|cumplir|ofrecer|generar|crear)"
    r"|je ne (?:peux|puis) pas (?:vous |t'|te "
    r")?(?:aider|fournir|répondre|assister|donner|créer|accéder)"
    r"|(?:kann|darf) (?:ich )?(?:dir |ihnen |dabei |hierbei |das |diese[rn]? \w+ )*(?:leider "
    r")?nicht "
    r"(?:helfen|weiterhelfen|beantworten|bereitstellen|erfüllen|unterstützen|geben)"
    r"|не могу (?:вам |тебе |с этим )?(?:помочь|предоставить|ответить|выполнить)"
    r"|(?:お答え|お手伝い|回答|提供)(?:することは)?できません"
)
_NO_MARKUP = str.maketrans({"’": "'", "‘": "'", "*": None, "_": None, "#": None, ">": None})

_FENCE = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)",
    re.MULTILINE | re.DOTALL,
)
_TEXT_FENCES = frozenset(
    {
        "text",
        "txt",
        "plain",
        "plaintext",
        "latex",
        "tex",
        "math",
        "markdown",
        "md",
        "output",
        "none",
    }
)
_CODE_LINE = re.compile(
    r"""\s*(?:
    (?:async\s+)?def\s+\w+\s*\(.*\).*:\s*(?:\#.*)?$
    | class\s+\w+(?:\(.*\))?:\s*$ | @\w+(?:\.\w+)*(?:\(.*\))?$
    | import\s+[\w.]+(?:\s+as\s+\w+)?(?:\s*,\s*[\w.]+)*;?$ | from\s+[\w.]+\s+import\s+\S.*
    | (?:for\s+[\w,\s()]+\s+in\s+.+|while\s+.+|if\s+.+|elif\s+.+|else|try|finally|with\s+.+
      |except.*):\s*(?:\#.*)?$
    | return(?:\s+[\w\[\](){}'"+*/%.,<>=!&|: -]+)?;?$
    | print\s*\(.*\);?$ | (?:pass|break|continue);?$
    | [\w.]+(?:\[[^\]]*\])*\s*(?:=|\+=|-=|\*=|//=|%=|\|=|:=)\s*[\w.]*(?:\(.*\)|\[.*\]|\{.*\});?$
    | [a-z_]\w*(?:\.\w+)+\(.*\);?$ | [a-z_]\w{2,}\s*(?:\+=|-=|\*=|//=|:=|==)\s*[\w.\[\]()+*/ -]+;?$
    | [a-z]{2,}_[a-z]{2,}\w*\s*=\s*\S.*$ | [a-z_]\w*(?:\.[a-z_]\w*)+(?:\[.*\])?\s*[-+*/]?=\s*\S.*$
    | \#include\s*[<"].* | \#define\s.*
    | using\s+namespace\s+\w+; | (?:public|private|protected|static)\s+.*[{;]\s*$
    | (?:int|long|float|double|bool|char|void|auto|string|vector<.*>|std::\S+
      |const|let|var|final|unsigned)
      \s+[\w*&<>,:\[\]]+.*[{;]\s*$
    | (?:function|fn|func|impl|struct|enum|interface|trait|namespace)\s+\w*.*\{?\s*$(?<=[{)}])
    | \}\s*(?:else.*\{|;|\))?\s*$ | (?:for|while|if|switch|catch)\s*\(.*\)\s*\{?\s*$
    | console\.\w+\(.*\);?$ | (?:std::)?cout\s*<<.*
    | (?:SELECT|INSERT\s+INTO|UPDATE|DELETE\s+FROM|CREATE\s+TABLE|ALTER\s+TABLE)\s+\S.*
    | (?:>>>|\$)\s+\S.*
    )""",
    re.VERBOSE,
)
_DECLARES = re.compile(
    r"\s*(?:(?:async\s+)?def\s|class\s|import\s|from\s|#include|#define|using\s)"
)
_LOOKS_CODED = re.compile(r"[=(){};:]|return|import|print")

_DELIBERATION = re.compile(
    r"\b(?:okay|ok|alright|hmm+|wait|hold on|actually)\s*[,.;—–-]|\bhmm+\b"
    r"|\blet me (?:think|see|check|try|re-?read|consider|re-?think)|\blet's (?:think|see|break)"
    r"|\bthe user (?:wants|is asking|asked|needs|has asked|says|provided|might|requested)"
    r"|\bi (?:need|should|have|must|think i) (?:to "
    r")?(?:figure|think|respond|output|return|produce|make "
    r"sure|parse"
    r"|check|determine|provide|find|format|extract)"
    r"|\bfirst, i\b|\balternatively,|\bmaybe i (?:should|can|need)|\bnow, i (?:need|should)"
    r"|\bso,? i (?:need|should|think)"
    r"|嗯|等等|等一下|让我(?:想|看|检查|思考|先)|用户(?:想|需要|要求|问|让|希望|给)"
    r"|我(?:需要|应该|得)(?:先|把|输出|返回|检查|想|分析|提取)|首先[，,]我",
    re.IGNORECASE,
)
_THOUGHT_KEY = re.compile(
    r'"((?:chain[_ -]?of[_ -]?thoughts?|cot|think|thinking|thoughts?|thought[_ '
    r"-]?process|reasoning(?:[_ -]\w+)?"
    r'|scratch[_ -]?pad|inner[_ -]?monologue|internal[_ -]?\w+|思考(?:过程)?|推理(?:过程)?))"\s*:',
    re.IGNORECASE,
)
_JSON_WANTED = re.compile(r"\bjson\b", re.IGNORECASE)
_JSON_START = re.compile(
    r"```(?:json)?\s*(?=[\[{])|(?:^|(?<=[\s>:：。]))(?=\{\s*[\"}]|\[\s*[\[{\"\d])"
)
_DECODER = json.JSONDecoder(strict=False)


def has_long_paragraph(text: str) -> bool:
    if len(text) * 4 < LONG_PARAGRAPH_BYTES:
        return False
    lines = text.splitlines()
    return any(
        len(line.encode(errors="replace")) > LONG_PARAGRAPH_BYTES
        for line in lines
        if len(line) * 4 > LONG_PARAGRAPH_BYTES
    )


def is_refusal(answer: str, *, has_box: bool) -> bool:
    """Whether an answer declines in the first person what it was asked.

    One that goes on to answer does not.
    """
    text = answer.strip()
    if has_box or not text or len(text) > MAX_REFUSAL_CHARS:
        return False
    beginning = text[:REFUSAL_CHARS].translate(_NO_MARKUP).lower().strip()
    return _REFUSAL.search(beginning) is not None


def has_code(text: str) -> bool:
    """Tell whether a text holds a block of code.

    It is fenced, or a few lines close together that read as code.
    """
    if "```" in text or "~~~" in text:
        for language, body in _FENCE.findall(text):
            lines = [line for line in body.splitlines() if line.strip()]
            is_named = language and language.lower() not in _TEXT_FENCES
            if lines and (is_named or any(_CODE_LINE.match(line) for line in lines)):
                return True
    if not _LOOKS_CODED.search(text):
        return False
    recent: list[int] = []
    for line in text.splitlines():
        if line.strip():
            recent = [*recent[1 - CODE_WINDOW :], _codedness(line)]
            if sum(recent) >= MIN_CODE_LINES:
                return True
    return False


def _codedness(line: str) -> int:
    """Rate a line: 2 is code, 1 may be, 0 is prose."""
    if len(line) > MAX_CODE_LINE_CHARS or _CODE_LINE.match(line) is None:
        return 0
    return 2 if _DECLARES.match(line) else 1


def leaks_into_json(prompt: str, answer: str) -> bool:
    """Tell whether an answer in JSON also holds reasoning.

    It may stand before, after or inside.
    """
    if "{" not in answer and "[" not in answer:
        return False
    found = _json_in(answer, is_wanted=_JSON_WANTED.search(prompt) is not None)
    if found is None:
        return False
    start, end = found
    inside, around = answer[start:end], f"{answer[:start]}\n{answer[end:]}"
    if LIKE_A_TAG.search(answer) and not LIKE_A_TAG.search(prompt):
        return True
    if any(key.lower() not in prompt.lower() for key in _THOUGHT_KEY.findall(inside)):
        return True
    if len(around.strip()) >= MIN_LEAK_CHARS and _DELIBERATION.search(around):
        return True
    marks = {
        mark.group(0).lower()
        for mark in _DELIBERATION.finditer(inside)
        if mark.group(0) not in prompt
    }
    return len(marks) >= MIN_VALUE_MARKS


def _json_in(answer: str, *, is_wanted: bool) -> tuple[int, int] | None:
    """Find the JSON of an answer; None unless it is the point.

    JSON is the point of an answer when the prompt asks for it, or when most of the answer is JSON.
    A beginning that is cut, or broken by what leaked into it, counts up to its last bracket.
    """
    for match in list(_JSON_START.finditer(answer))[:50]:
        start = match.end()
        try:
            value, end = _DECODER.raw_decode(answer, start)
        except (ValueError, RecursionError):
            end = max(answer.rfind("}"), answer.rfind("]")) + 1
            if (
                answer[start] != "{"
                or end <= start
                or '":' not in answer[start:end].replace(" ", "")
            ):
                continue
            value = {"broken": True}
        is_record = isinstance(value, dict) or (
            isinstance(value, list) and value[:1] and isinstance(value[0], dict)
        )
        is_most = (end - start) * 2 >= len(answer.strip()) or answer.lstrip().startswith(
            ("{", "```json")
        )
        if is_wanted or (is_record and is_most):
            return start, end
    return None


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """Form of answers: a JSON Schema, as text, or a regular expression."""

    schema: str | None = None
    regex: str | None = None

    def fits(self, answer: str | None) -> bool:
        """Whether an answer has this form; none has not."""
        if answer is None:
            return False
        if self.regex is not None:
            return re.fullmatch(self.regex, answer, re.DOTALL) is not None
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError):
            return False
        return self.schema is None or bool(_validator(self.schema).is_valid(value))


@functools.lru_cache(maxsize=8)
def _validator(schema: str) -> Any:
    from jsonschema.validators import validator_for

    read = json.loads(schema)
    return validator_for(read)(read)
