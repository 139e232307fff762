"""The client of a server: what it understands, and whose business each fault is."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from chat_server import KEY, MODEL, ChatServer, answer_to, chat_server

from batchr1.engine.openai.bounds import Held
from batchr1.engine.openai.client import Answer, ChatClient, _document, _events
from batchr1.engine.openai.faults import (
    AccessError,
    NotFound,
    RowFailed,
    ServerFault,
    SlowRequest,
    fault_of,
    retry_after_s,
    without,
    words_of,
)
from batchr1.engine.openai.served import Served
from batchr1.engine.openai.server import Spent, key_of
from batchr1.errors import UsageError
from batchr1.job.engine import EngineKind, PriceSpec
from batchr1.job.spec import SamplingSpec
from batchr1.records import Reply

PROMPT = "What is one and one?"


def client_at(base_url: str, *, timeout_s: float = 5, stream: bool = True) -> ChatClient:
    """A client as a job's worker makes it; the address is not looked at before."""
    engine = EngineKind(kind="openai", timeout_s=timeout_s, concurrency=4, stream=stream)
    return ChatClient(
        engine.model_copy(update={"base_url": base_url}), MODEL, SamplingSpec(temperature=0)
    )


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(
    server: ChatServer,
    *,
    stream: bool = True,
    timeout_s: float = 5.0,
    on_token: Callable[[], None] | None = None,
) -> Reply:
    async def go() -> Reply:
        async with client_at(server.url, timeout_s=timeout_s, stream=stream) as client:
            return await client.ask([("user", PROMPT)], on_token=on_token or (lambda: None))

    return asyncio.run(go())


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_comes_whole_with_whatever_it_holds(stream: bool) -> None:
    with chat_server(form="native") as server:
        reply = ask(server, stream=stream)
    reasoning, answer = answer_to(PROMPT)
    assert reply == Reply(answer, reasoning, "stop", 20, 100, 90)
    assert "\u2028" in reasoning and "\x85" in reasoning, "which Python takes for ends of lines"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("429:7", "HTTP 429: as told: 429"),
        ("500", "HTTP 500: as told: 500"),
        ("json", "its answer is no JSON"),
        ("html", "its answer is no JSON"),
        ("finish:abort", "its answer was broken off (finish_reason abort)"),
    ],
)
def test_what_the_server_does_wrong_is_a_fault_of_the_server(
    word: str, message: str, stream: bool
) -> None:
    with chat_server(default=word) as server, pytest.raises(ServerFault) as fault:
        ask(server, stream=stream)
    assert str(fault.value) == message
    assert fault.value.retry_after_s == (7 if word == "429:7" else None)
    assert fault.value.is_busy == word.startswith("429")


@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_that_is_cut_is_a_fault_of_the_server(stream: bool) -> None:
    with (
        chat_server(default="cut") as server,
        pytest.raises(ServerFault, match=r"^remote protocol error: "),
    ):
        ask(server, stream=stream)


def test_a_stream_that_ends_in_good_order_without_an_end_is_cut_too() -> None:
    answer = Answer(Held(1).share())
    answer.take({"choices": [{"delta": {"content": "half"}}]})
    with pytest.raises(ServerFault, match=r"^its answer was cut: it has no end$"):
        answer.reply()


def test_a_server_that_hangs_is_given_up_after_the_time_for_a_request() -> None:
    with chat_server(default="hang") as server, pytest.raises(SlowRequest) as slow:
        ask(server, timeout_s=0.3)
    assert str(slow.value) == "no answer within engine.timeout_s, 0.3 s"


def test_so_is_one_that_gives_a_token_now_and_then() -> None:
    came: list[int] = []
    with chat_server(default="trickle:0.05") as server, pytest.raises(SlowRequest):
        ask(server, timeout_s=0.5, on_token=lambda: came.append(1))
    assert came, "and it is known to be alive"


def test_a_server_that_is_not_there_is_a_fault_without_its_address() -> None:
    with chat_server() as server:
        gone = server
    with pytest.raises(ServerFault) as fault:
        ask(gone)
    assert str(fault.value) == "connect error: All connection attempts failed"


def test_an_error_within_a_stream_is_a_fault_or_what_its_code_says() -> None:
    client = client_at("http://h/v1")
    with pytest.raises(ServerFault, match=r"^its answer was broken off: out of luck$"):
        client._take(Answer(Held(1).share()), {"error": {"message": "out of luck"}}, [])
    with pytest.raises(ServerFault, match=r"^HTTP 503: busy$"):
        client._take(Answer(Held(1).share()), {"error": {"message": "busy", "code": 503}}, [])
    with pytest.raises(RowFailed, match=r"^HTTP 400: no$"):
        client._take(Answer(Held(1).share()), {"error": {"message": "no", "code": 400}}, [])
    asyncio.run(client.__aexit__(None, None, None))


def test_an_answer_that_is_no_chat_completion_is_a_fault() -> None:
    for document in (
        {"choices": ["x"]},
        {"choices": {"a": 1}},
    ):
        with pytest.raises(ServerFault, match=r"^its answer is no"):
            Answer(Held(1).share()).take(document)


def test_escaped_surrogates_are_paired_across_pieces_and_lone_ones_replaced() -> None:
    answer = Answer(Held(1).share())
    for text in ('"a\\ud83d"', '"\\ude00b"', '"\\ud800."'):
        answer.take({"choices": [{"delta": {"content": json.loads(text)}}]})
    answer.take({"choices": [{"delta": {}, "finish_reason": "length"}]})
    assert answer.reply().content == "a😀b\ufffd."


def test_events_are_cut_at_line_feeds_wherever_pieces_end() -> None:
    text = (
        ': ping\r\n\r\ndata: {"a": "\u2028é"}\r\n\r\nevent: x\ndata:{"b": 1}\n\ndata: '
        '[DONE]\n\ndata: {"c": 1}\n'
    )
    stream = text.encode()

    async def read(size: int) -> list[dict[str, Any] | None]:
        async def pieces() -> Any:
            for i in range(0, len(stream), size):
                yield stream[i : i + size]

        return [document async for document in _events(pieces(), Held(1).share())]

    for size in (1, 2, 3, 7, 1000):
        assert asyncio.run(read(size)) == [{"a": "\u2028é"}, {"b": 1}, None]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, "", RowFailed),
        (413, "", RowFailed),
        (422, "", RowFailed),
        (418, "", RowFailed),
        (401, "", AccessError),
        (402, "", AccessError),
        (403, "", AccessError),
        (307, "", AccessError),
        (408, "", ServerFault),
        (425, "", ServerFault),
        (429, "", ServerFault),
        (500, "", ServerFault),
        (503, "", ServerFault),
        (529, "", ServerFault),
        (404, '{"detail": "Not Found"}', NotFound),
        (404, '{"error": {"message": "The model `r1` does not exist.", "code": 404}}', AccessError),
        (404, '{"error": {"message": "no", "code": "model_not_found"}}', AccessError),
        (404, '{"error": {"message": "no", "param": "model"}}', AccessError),
    ],
)
def test_whose_business_a_status_is(status: int, body: str, kind: type[Exception]) -> None:
    assert type(fault_of(status, {}, body, model="r1")) is kind


NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (" 1.5 ", 1.5),
        ("-3", 0),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60),
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("soon", None),
        ("", None),
        ("Fri, 02 Jan 2026 03:05:05 +99999999999999999", None),
    ],
)
def test_when_a_server_wishes_to_be_asked_again(header: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": header}, NOW) == seconds
    assert retry_after_s({}, NOW) is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "too\\n long"}}', "too long"),
        ('{"error": "too long"}', "too long"),
        ('{"message": "too long", "object": "error"}', "too long"),
        ('{"detail": "Not Found"}', "Not Found"),
        ('{"detail": [{"msg": "bad", "input": "my prompt"}]}', "bad"),
        ("<html><body>502</body></html>", ""),
        ("upstream connect error", "upstream connect error"),
        ("[1]", "[1]"),
        ("", ""),
        ("x" * 1000, "x" * 299 + "…"),
    ],
)
def test_the_servers_own_words_are_found_and_cut(body: str, words: str) -> None:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    assert words_of(document, body) == words


def test_what_must_not_be_repeated_is_left_out_of_them_however_it_is_quoted() -> None:
    prompt = 'say "é"\nnow'
    for said in (prompt, json.dumps(prompt), json.dumps(prompt, ensure_ascii=False), repr(prompt)):
        left = without(f"bad input {said} with sk-1", [prompt, "sk-1"])
        assert "say" not in left and "now" not in left and "sk-1" not in left


def test_a_key_that_the_server_repeats_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with chat_server(key="another") as server, pytest.raises(AccessError) as refused:
        ask(server)
    assert str(refused.value) == "HTTP 401: Incorrect API key provided: Bearer […]."


def test_a_key_is_sent_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_of("OPENAI_API_KEY") is None
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert key_of("OPENAI_API_KEY") == KEY
    with chat_server(key=KEY) as server:
        assert ask(server).finish_reason == "stop"


@pytest.mark.parametrize("key", ["sk-é", "two words", "a\nb"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError) as refused:
        key_of("OPENAI_API_KEY")
    assert str(refused.value) == (
        "engine.api_key_env: the environment variable OPENAI_API_KEY holds no key (it has "
        "characters that a header cannot have). Set it to the key alone."
    )
    assert os.environ["OPENAI_API_KEY"] not in str(refused.value)


def test_a_server_is_asked_for_its_models_and_need_not_have_any() -> None:
    def look(server: ChatServer) -> Served:
        async def go() -> Served:
            async with client_at(server.url) as client:
                return await client.models()

        return asyncio.run(go())

    with chat_server(models=["a", MODEL]) as server:
        assert look(server) == Served(("a", MODEL), 4096)
        server.models = None
        assert look(server) == Served(None)


def test_a_wrong_name_gets_what_is_near_or_what_there_is() -> None:
    assert Served(None).hint("r1") == (
        "Correct model.served or engine.base_url; the server gives no list of its models."
    )
    assert Served(("deepseek-r1", "other")).hint("deepseek-r2") == (
        "It serves deepseek-r1 and 1 more. Correct model.served."
    )
    assert Served(("aaa", "bbb")).hint("zzz") == "It serves aaa, bbb. Correct model.served."


def test_what_answers_cost() -> None:
    spent = Spent().plus(1000, 3000).plus(None, 7).plus(500, None)
    assert spent == Spent(3, 1500, 3007, 2)
    assert PriceSpec(input=2, output=10).usd(1_000_000, 100_000) == 3.0


def client_of(
    key: str, monkeypatch: pytest.MonkeyPatch, *, base_url: str = "http://h/v1"
) -> ChatClient:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    return client_at(base_url)


@pytest.mark.parametrize("quoted", ["ab\\/cd+ef==", "ab\\u002fcd+ef==", "ab/cd+ef=="])
def test_nor_is_one_that_the_server_spells_as_json_may(
    monkeypatch: pytest.MonkeyPatch, quoted: str
) -> None:
    client = client_of("ab/cd+ef==", monkeypatch)
    body = f'{{"error": {{"message": "Incorrect API key provided: {quoted}."}}}}'
    assert str(client._fault(401, {}, body, [])) == "HTTP 401: Incorrect API key provided: […]."
    with pytest.raises(
        ServerFault, match=r"^its answer was broken off: Incorrect API key provided: \[…\]\.$"
    ):
        client._take(Answer(Held(1).share()), json.loads(body), [])


@pytest.mark.parametrize("key", ["1", "null", "error", "message", '"'])
def test_a_key_that_is_no_secret_breaks_no_message(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    client = client_of(key, monkeypatch)
    with pytest.raises(ServerFault, match=r"^its answer was broken off: out of luck$"):
        client._take(
            Answer(Held(1).share()),
            {"error": {"message": "out of luck", "param": None, "code": "1"}},
            ["12345678"],
        )
    assert (
        str(client._fault(500, {}, '{"error": {"message": "out of luck"}}', []))
        == "HTTP 500: out of luck"
    )


def test_the_kind_of_an_answer_is_read_in_any_case() -> None:
    kinds = []
    for kind in ("text/event-stream", "Text/Event-Stream;charset=utf-8"):
        response = httpx.Response(200, headers={"Content-Type": kind}, content=STREAM)
        client = client_at("http://h/v1")
        kinds.append(
            asyncio.run(client._read(response, [], lambda: None, Held(1).share())).reply().content
        )
    assert kinds == ["a", "a"]


STREAM = b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'


def test_an_empty_finish_reason_is_none_yet() -> None:
    answer = Answer(Held(1).share())
    answer.take({"choices": [{"delta": {"content": "a"}, "finish_reason": ""}]})
    with pytest.raises(ServerFault, match=r"^its answer was cut: it has no end$"):
        answer.reply()
    answer.take({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    answer.take({"choices": [{"delta": {"content": ""}, "finish_reason": ""}]})
    assert answer.reply().finish_reason == "stop"


def test_a_byte_order_mark_costs_no_event_and_no_document() -> None:
    async def read() -> list[dict[str, Any] | None]:
        async def pieces() -> Any:
            yield '\ufeffdata: {"a": 1}\n\ndata: {"b": 2}\n\n'.encode()

        return [document async for document in _events(pieces(), Held(1).share())]

    assert asyncio.run(read()) == [{"a": 1}, {"b": 2}]
    assert _document('\ufeff{"a": 1}') == {"a": 1}


def test_a_document_without_bottom_is_a_fault() -> None:
    with pytest.raises(ServerFault, match=r"^its answer is no JSON$"):
        _document('{"a": ' + "[" * 200_000)
    assert isinstance(fault_of(500, {}, "[" * 200_000, model="r1"), ServerFault)


@pytest.mark.parametrize(
    "base_url", ["http://10.0.0.256:8000/v1", "http://[::1]]/v1", "http://xn--a/v1"]
)
def test_what_no_request_can_be_sent_to_is_refused(
    monkeypatch: pytest.MonkeyPatch, base_url: str
) -> None:
    with pytest.raises(
        UsageError,
        match=r"^engine\.base_url http://.*: no request can be sent to this host\. Correct it\.$",
    ):
        client_of("", monkeypatch, base_url=base_url)


@pytest.mark.parametrize("proxy", ["socks5://u:SECRET@127.0.0.1:1", "ftp://u:SECRET@127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(
        UsageError, match=r"^the environment's proxy or certificates cannot be used \("
    ) as refused:
        client_of("", monkeypatch)
    assert "SECRET" not in str(refused.value)
