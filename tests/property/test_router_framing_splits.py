"""Whatever way the network cuts a body, the pieces are the same."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from podbay_inference_router.framing import EventFramer, Framer, FramingError, LineFramer, Piece

TEXTS = st.binary(max_size=12) | st.sampled_from([b"[DONE]", b'{"a":1}', b"1", b"\xef\xbb\xbf"])
PARTS = st.lists(
    st.one_of(
        TEXTS,
        st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"data: ", b"data:", b"event: x", b": c"]),
    ),
    max_size=25,
)


def run(framer: Framer, parts: list[bytes]) -> list[Piece | str]:
    pieces: list[Piece | str] = [piece for part in parts for piece in framer.feed(part)]
    try:
        return pieces + framer.end()
    except FramingError as error:
        return [*pieces, str(error)]


def cut(body: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({min(place, len(body)) for place in places} | {0, len(body)})
    return [body[begin:end] for begin, end in itertools.pairwise(marks)]


@given(PARTS, st.lists(st.integers(0, 300), max_size=12))
def test_events_do_not_depend_on_the_cuts(parts: list[bytes], places: list[int]) -> None:
    body = b"".join(parts)
    whole = run(EventFramer(1000), [body])
    assert run(EventFramer(1000), cut(body, places)) == whole
    assert run(EventFramer(1000), [body[i : i + 1] for i in range(len(body))]) == whole


@given(PARTS, st.lists(st.integers(0, 300), max_size=12))
def test_lines_do_not_depend_on_the_cuts(parts: list[bytes], places: list[int]) -> None:
    body = b"".join(parts)
    whole = run(LineFramer(1000), [body])
    assert run(LineFramer(1000), cut(body, places)) == whole
    assert run(LineFramer(1000), [body[i : i + 1] for i in range(len(body))]) == whole
