"""Taking over a container's log, which is written down a little out of order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from podbay_session_manager.drivers.containers import logs
from podbay_session_manager.drivers.containers.logs import _Taker, split_message

START = 1_800_000_000_000_000_000


class FakeLog:
    """An engine with one log, in the order in which it was written down."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []

    def log(self, _container: str, since: float, take: Callable[[bytes], bool]) -> None:
        for moment, text in self.messages:
            if moment >= since * 1e9:
                seconds, nanos = divmod(moment, 1_000_000_000)
                stamp = f"2027-01-15T08:{(seconds // 60) % 60:02}:{seconds % 60:02}.{nanos:09}Z"
                assert split_message(f"{stamp} x".encode()) == (moment, b"x")
                if not take(stamp.encode() + b" " + text):
                    return


def taken(folder: Path) -> list[bytes]:
    files = [p for p in (folder / "log").iterdir() if p.name.isdecimal()]
    return b"".join(p.read_bytes() for p in sorted(files)).splitlines()


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 900_000_000), st.sampled_from([b"a\n", b"b\n"]))),
        max_size=6,
    )
)
def test_every_message_is_taken_once_however_they_come(
    looks: list[list[tuple[int, bytes]]],
) -> None:
    engine = FakeLog()
    with TemporaryDirectory() as root:
        for number, new in enumerate(looks):
            # Up to nine tenths of a second out of order, and time goes on slowly.
            engine.messages += [(START + number * 50_000_000 + ago, text) for ago, text in new]
            _Taker(Path(root), 1 << 20).run(engine, "c", ended=number == len(looks) - 1)  # type: ignore[arg-type]
            assert taken(Path(root)) == [text.strip() for _, text in engine.messages]


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    engine = FakeLog()
    for look in range(3):
        engine.messages += [
            (START + (look * 10_000 + n) * 1000, b"%d\n" % (look * 10_000 + n))
            for n in range(10_000)
        ]
        taker = _Taker(tmp_path, 1 << 20)
        taker.run(engine, "c", ended=False)  # type: ignore[arg-type]
        assert len(taker._taken.recent) <= logs._RECENT
    assert taken(tmp_path) == [b"%d" % n for n in range(30_000)]
