"""Regular expressions: compiled once, and stopped when they run away."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from podbay.schema.adapters import (
    AdapterOptions,
    ItemIndexError,
    ItemPatternError,
    ItemTypeError,
    PatternGuardError,
    PatternTimeoutError,
    _regex,
    _regex_guard,
    _regex_worker,
    create_adapter,
)
from podbay.schema.adapters._regex_cost import safe_length

RUNAWAY = "(a|aa)+$"


def adapter(seconds: float = 60.0, **function: Any) -> Any:
    template = {"o": {"$compute": [{"$scalar": "$.t"}, function]}}
    options = AdapterOptions(pattern_seconds=seconds)
    return create_adapter({"kind": "TransformJSON", "configuration": template}, options)


def value(text: str, **function: Any) -> Any:
    (output,) = adapter(**function).push({"t": text})
    return output["o"]


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        (r"[A-Za-z]", 10**6, 10**9),
        (r"\d+", 10**6, 10**9),
        (r"\d+x", 2_000, 20_000),
        (r"\d+?", 2_000, 20_000),
        (r"\d+\+", 2_000, 20_000),
        (r"\d+[+]", 2_000, 20_000),
        (r"(\w+)=(\w+)", 2_000, 20_000),
        (r"answer:\s*(\w+)", 2_000, 20_000),
        (r"\s*answer:\s*(\w+)", 300, 1_000),
        (r"^\s*answer:\s*(\w+)", 2_000, 20_000),
        (r"(?m)^\s*answer:\s*(\w+)", 300, 1_000),
        (r"^\s*answer|:\s*(\w+)", 200, 1_000),
        (r"^\d+", 10**6, 10**9),
        (r".*(?!a+)", 300, 1_000),
        (r".*(?<!a)(b+)", 300, 1_000),
        (r"(a)?(?(1).*x|b+)", 200, 1_000),
        (r"(a+|b*)", 2_000, 20_000),
        (r"cat|dog|bird", 10**6, 10**9),
        (r"(?=a+)", 2_000, 20_000),
        (r"a{2,3}b*c", 300, 1_000),
        (r"(\d{3}-)?\d+ ", 200, 1_000),
        (r"[(*+]*[)]*x", 300, 1_000),
        (r"a*b{2,}", 300, 1_000),
        (r"\(\)\*\+", 10**6, 10**9),
        (r"[]*+(]", 10**6, 10**9),
        (r"(?:ab){3}", 10**6, 10**9),
        (r"(?:a*b){3}", 50, 200),
        (r"(a)\1", 2_000, 20_000),
    ],
)
def test_safe_lengths(pattern: str, least: int, most: int) -> None:
    assert least <= safe_length(re.compile(pattern)) <= most


@pytest.mark.parametrize(
    "pattern",
    [
        RUNAWAY,
        "(a*)*b",
        "(?:a+)+",
        "(a|b){2,}",
        "(a?){50}",
        "(?x) (a*) # a comment\n *",
        "(?x:a) *",
        "(?#[)(a*)*b",
        r"((a{1,20}){1,20}){1,20}x",
        "(a?)" * 40,
        "(?:x+x+)+y",
    ],
)
def test_what_may_be_exponential_is_never_safe(pattern: str) -> None:
    assert safe_length(re.compile(pattern)) < 30


def test_verbose_patterns_are_never_safe() -> None:
    assert safe_length(re.compile("(a+) +", re.VERBOSE)) == -1


@pytest.mark.parametrize("operation", ["findall", "search", "split"])
def test_a_runaway_pattern_is_stopped(operation: str) -> None:
    runaway = adapter(seconds=0.2, **{"$func": operation}, pattern=RUNAWAY)
    with pytest.raises(PatternTimeoutError, match=r"\$compute\[1\]: .* longer than 0.2 s"):
        runaway.push({"t": "a" * 60 + "!"})
    # The next one finds a new process.
    assert runaway.push({"t": "bb"})


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("k=v, l=w", {"$func": "findall", "pattern": r"((\w)=(\w))+"}),
        ("k=v, l=w", {"$func": "findall", "pattern": r"((?:\w=\w)+)"}),
        ("k=v, l=w", {"$func": "findall", "pattern": r"(?:\w=\w)+"}),
        ("k=v", {"$func": "search", "pattern": r"(?P<k>\w)+=(x)?", "group": "k"}),
        ("k=v", {"$func": "search", "pattern": r"(?P<k>\w)+=(x)?", "group": 2, "default": "d"}),
        ("k=v", {"$func": "search", "pattern": r"(?:\d)+", "default": ["d"]}),
        ("a1b22c", {"$func": "split", "pattern": r"(\d)+", "maxsplit": 1}),
        ("A1b22c", {"$func": "sub", "pattern": r"([a-z])+", "repl": r"<\1>", "flags": 2}),
        ("ab\ncd", {"$func": "sub", "pattern": r"(?s)(b.)+", "repl": "-", "count": 1}),
        ("é٣", {"$func": "findall", "pattern": r"(?a)(?:\w)+|."}),
        ("\ud800x", {"$func": "findall", "pattern": r"(?:.)+"}),
    ],
)
def test_the_process_gives_the_same_results(
    text: str, function: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = value(text, **function)
    monkeypatch.setattr(_regex, "safe_length", lambda _: len(text))
    inline = value(text, **function)
    assert guarded == inline
    assert list(map(type, guarded or ())) == list(map(type, inline or ()))


def test_the_process_gives_the_same_errors() -> None:
    bad_group = adapter(**{"$func": "search"}, pattern="(a)+", group=5)
    with pytest.raises(ItemIndexError):
        bad_group.push({"t": "a"})
    bad_repl = adapter(**{"$func": "sub"}, pattern="(a)+", repl="\\7")
    with pytest.raises(ItemPatternError):
        bad_repl.push({"t": "a"})


def test_without_a_process_a_risky_pattern_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_regex_guard, "_guard", _regex_guard._Guard())
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(PatternGuardError, match="no process can be started"):
        value("aaa", **{"$func": "findall"}, pattern=RUNAWAY)
    assert value("aaa", **{"$func": "findall"}, pattern="a") == ["a", "a", "a"]


def test_a_bad_replacement_fails_before_a_value_that_is_no_text() -> None:
    bad_repl = adapter(**{"$func": "sub"}, pattern="a", repl="\\1")
    with pytest.raises(ItemPatternError):
        bad_repl.push({"t": [1]})
    with pytest.raises(ItemTypeError):
        adapter(**{"$func": "sub"}, pattern="a", repl="b").push({"t": [1]})


def test_a_process_that_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = _regex_guard._Guard()
    monkeypatch.setattr(_regex_guard, "_guard", guard)
    try:
        assert value("aa", **{"$func": "findall"}, pattern="(a)+") == ["a"]
        process = guard._process
        assert process is not None
        process.kill()
        process.wait()
        assert value("aa", **{"$func": "findall"}, pattern="(a)+") == ["a"]
        assert guard._process is not process
    finally:
        for ended in {process, guard._process}:
            for stream in (ended.stdin, ended.stdout):
                stream.close()
        guard.close()


FORKING = """
import os
from podbay.schema.adapters import create_adapter

step = {"$func": "findall", "pattern": "(a)+"}
adapter = create_adapter(
    {"kind": "TransformJSON", "configuration": {"$compute": [{"$scalar": "$.t"}, step]}}
)
assert adapter.push({"t": "aab"}) == [["a"]]
child = os.fork()
assert adapter.push({"t": "aab"}) == [["a"]]
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", FORKING],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_patterns_are_compiled_when_the_adapter_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = adapter(**{"$func": "findall"}, pattern="a")

    def refuse(*_: Any) -> Any:
        raise AssertionError("compiled again")

    monkeypatch.setattr(re, "compile", refuse)
    assert built.push({"t": "aba"}) == [{"o": ["a", "a"]}]


def test_flags_that_print_are_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    assert value("a", **{"$func": "findall"}, pattern="a", flags=128 + 1) == ["a"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("flags", [4, 256 + 32, None, "x", 1.5])
def test_bad_flags_fail_when_applied(flags: Any) -> None:
    built = adapter(**{"$func": "findall"}, pattern="a", flags=flags)
    assert len(built.warnings) == 1
    with pytest.raises(ValueError if isinstance(flags, int) else TypeError):
        built.push({"t": "a"})


def test_the_worker_answers_line_by_line() -> None:
    assert _regex_worker.answer('["findall", "a+", 0, "aab", []]') == '{"result": ["aa"]}'
    failed = _regex_worker.answer('["sub", "(", 0, "aab", ["x"]]')
    assert json.loads(failed) == {"error": re.error.__name__}  # PatternError from Python 3.13 on


def test_long_texts_go_to_the_process_and_back() -> None:
    text = "word " * 300_000  # more than any pipe holds, both ways
    assert value(text, **{"$func": "findall"}, pattern=r"(?:\w)+") == ["word"] * 300_000


def test_threads_wait_for_their_turn_and_each_has_its_own_time() -> None:
    runaway = adapter(seconds=0.3, **{"$func": "findall"}, pattern=RUNAWAY)
    harmless = adapter(**{"$func": "findall"}, pattern="(b)+")

    def stopped(_: int) -> bool:
        with pytest.raises(PatternTimeoutError):
            runaway.push({"t": "a" * 60 + "!"})
        return True

    with ThreadPoolExecutor(4) as pool:
        stops = pool.map(stopped, range(2))
        answers = pool.map(lambda _: harmless.push({"t": "b"}), range(2))
        assert list(answers) == [[{"o": ["b"]}]] * 2
        assert list(stops) == [True] * 2


async def test_a_runaway_pattern_in_a_stream_ends_the_stream() -> None:
    async def source() -> AsyncIterator[Any]:
        yield {"t": "aa"}
        yield {"t": "a" * 60 + "!"}

    runaway = adapter(seconds=0.2, **{"$func": "findall"}, pattern=RUNAWAY)
    outputs = runaway.aapply(source())
    assert await anext(outputs) == {"o": ["a"]}
    with pytest.raises(PatternTimeoutError):
        await anext(outputs)
