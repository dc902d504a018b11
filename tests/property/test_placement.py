"""Placement: no GPU twice, never over what a node has, nobody waits for ever, always the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podbay_session_manager.declared_nodes import DeclaredGpu
from podbay_session_manager.placement import Fleet, Placement
from podbay_session_manager.placement_texts import judge, needs_text, waiting_text, why_waiting
from podbay_session_manager.plan_input import NodeRecord
from podbay_session_manager.records import Needs, Reason

GIB = 1 << 30
T4, A100 = "nvidia.com/gpu-t4", "nvidia.com/gpu-a100"
MEMORY = {T4: 16 * GIB, A100: 80 * GIB}


def node(name: str, gpus: dict[str, int] | None = None, **changes: object) -> NodeRecord:
    declared = [
        DeclaredGpu(f"{n}", kind, MEMORY[kind])
        for n, kind in enumerate(k for k, count in (gpus or {}).items() for _ in range(count))
    ]
    record = NodeRecord(
        name, f"docker/{name}", kind="docker", cpus=8, memory_bytes=64 * GIB, gpus=tuple(declared)
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def gpus(count: int, *types: str, **more: object) -> Needs:
    return Needs(gpus=count, hardware_types=types or (T4,), **more)  # type: ignore[arg-type]


NODES = st.lists(
    st.builds(
        lambda t4, a100, cpus, memory, spot, cordoned, aside: {
            "gpus": {T4: t4, A100: a100},
            "cpus": cpus,
            "memory_bytes": memory * GIB,
            "spot": spot,
            "cordoned": cordoned,
            "set_aside": {"0": "broken"} if aside else {},
        },
        st.integers(0, 4),
        st.integers(0, 4),
        st.sampled_from([1.0, 4.0, 16.0]),
        st.sampled_from([4, 32]),
        st.booleans(),
        st.sampled_from([False, False, False, True]),
        st.sampled_from([False, False, True]),
    ),
    max_size=5,
).map(lambda made: [node(f"n{i}", **one) for i, one in enumerate(made)])
NEEDS = st.builds(
    Needs,
    gpus=st.integers(0, 4),
    hardware_types=st.sampled_from([(T4,), (A100,), (T4, A100)]),
    gpu_memory_bytes=st.sampled_from([0, 0, 20 * GIB]),
    cpus=st.sampled_from([0.0, 0.1, 2.0]),
    memory_bytes=st.sampled_from([0, 3 * GIB]),
    spot=st.booleans(),
)
ASKED = st.lists(st.tuples(st.integers(0, 4), NEEDS), max_size=25)


@settings(max_examples=300, deadline=None)
@given(NODES, ASKED, st.sets(st.integers(0, 4)))
def test_nothing_is_given_twice_and_nothing_is_exceeded(
    nodes: list[NodeRecord], asked: list[tuple[int, Needs]], late: set[int]
) -> None:
    awaited = {one.driver for number, one in enumerate(nodes) if number in late}
    nodes = [replace(n, unreachable="late") if n.driver in awaited else n for n in nodes]
    fleet = Fleet(nodes, awaited=awaited)
    given_gpus: set[tuple[str, str]] = set()
    cpus = {n.name: 0.0 for n in nodes}
    memory = {n.name: 0 for n in nodes}
    for session, needs in asked:
        placed = fleet.place("docker", f"s{session}", needs)
        if placed is None:
            for room in fleet.of_kind("docker"):
                assert room.fit(needs) is None
                assert judge(room, needs).reasons, "what does not fit says why"
            fleet.keep_for("docker", needs)
            continue
        place = placed.node
        assert placed.awaited == (place.driver in awaited)
        assert not place.cordoned
        assert needs.spot or not place.spot
        of_node = {gpu.id: gpu for gpu in place.gpus}
        assert len(placed.gpus) == needs.gpus
        assert len({of_node[i].hardware_type for i in placed.gpus}) <= 1
        for gpu in placed.gpus:
            assert (place.name, gpu) not in given_gpus
            assert gpu not in place.set_aside
            assert of_node[gpu].hardware_type in needs.hardware_types
            assert of_node[gpu].memory_bytes >= needs.gpu_memory_bytes
            given_gpus.add((place.name, gpu))
        cpus[place.name] += needs.cpus
        memory[place.name] += needs.memory_bytes
        assert cpus[place.name] <= place.cpus + 1e-6
        assert memory[place.name] <= place.memory_bytes


@settings(max_examples=150, deadline=None)
@given(NODES, ASKED)
def test_the_shortlist_finds_what_a_look_at_all_nodes_finds(
    nodes: list[NodeRecord], asked: list[tuple[int, Needs]]
) -> None:
    fleet, plain = Fleet(nodes), Fleet(nodes)
    for session, needs in asked:
        key = f"s{session}"
        fits = [
            (room.sessions.get(key, 0), fit.key, room)
            for room in plain.of_kind("docker")
            if (fit := room.fit(needs)) is not None
        ]
        placed = fleet.place("docker", key, needs)
        if not fits:
            assert placed is None
            continue
        _, _, best = min(fits, key=lambda one: one[:2])
        assert placed is not None
        assert placed.node.name == best.node.name
        fit = best.fit(needs)
        assert fit is not None
        assert fit.gpus == placed.gpus
        best.hold(key, needs, fit.gpus)


@settings(max_examples=150, deadline=None)
@given(NODES, ASKED)
def test_the_same_is_decided_again(nodes: list[NodeRecord], asked: list[tuple[int, Needs]]) -> None:
    def decide() -> list[Placement | None]:
        fleet = Fleet(nodes)
        return [fleet.place("docker", f"s{session}", needs) for session, needs in asked]

    assert decide() == decide()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 4),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), min_size=30, max_size=60),
)
def test_a_large_one_is_not_starved_by_an_endless_stream_of_small_ones(
    large: int, stream: list[tuple[int, int]]
) -> None:
    """Small ones come and go for ever; the large one gets its place as soon as all have gone."""
    nodes = [node("a", {T4: 4}), node("b", {T4: 4})]
    running: list[tuple[Placement, Needs, int]] = [
        (Placement(n, (gpu.id,)), gpus(1), 6) for n in nodes for gpu in n.gpus
    ]
    waiting: list[tuple[Needs, int]] = []
    for count, life in stream:
        running = [(where, needs, left - 1) for where, needs, left in running if left > 1]
        waiting.append((gpus(count), life))
        fleet = Fleet(nodes)
        for number, (where, needs, _) in enumerate(running):
            fleet.hold(where.node.driver, where.node.name, f"r{number}", needs, where.gpus)
        if fleet.place("docker", "large", gpus(large)) is not None:
            return
        fleet.keep_for("docker", gpus(large))
        still = []
        for number, (needs, time) in enumerate(waiting):
            placed = fleet.place("docker", f"w{number}", needs)
            if placed is None:
                fleet.keep_for("docker", needs)
                still.append((needs, time))
            else:
                running.append((placed, needs, time))
        waiting = still
    raise AssertionError("the large one was starved")


def test_without_keeping_room_it_would_be_starved() -> None:
    """The test above can fail: small ones alone take every GPU that comes free."""
    nodes = [node("a", {T4: 2})]
    free_one = Fleet(nodes)
    free_one.hold("docker/a", "a", "r", gpus(1), ("0",))
    assert free_one.place("docker", "large", gpus(2)) is None
    assert free_one.place("docker", "small", gpus(1)) is not None
    kept = Fleet(nodes)
    kept.hold("docker/a", "a", "r", gpus(1), ("0",))
    assert kept.place("docker", "large", gpus(2)) is None
    kept.keep_for("docker", gpus(2))
    assert kept.place("docker", "small", gpus(1)) is None
    (room,) = kept.of_kind("docker")
    assert judge(room, gpus(1)).reasons == (
        "0 of 2 such GPUs free, 1 needed (1 kept for replicas that wait longer)",
    )


def place(nodes: list[NodeRecord], needs: Needs, session: str = "s") -> tuple[str, tuple[str, ...]]:
    placed = Fleet(nodes).place("docker", session, needs)
    assert placed is not None
    return placed.node.name, placed.gpus


def test_small_ones_fill_up_what_is_begun_so_that_large_ones_find_whole_nodes() -> None:
    fleet = Fleet([node("a", {T4: 4}), node("b", {T4: 4})])
    names = []
    for number in range(4):
        placed = fleet.place("docker", f"s{number}", gpus(1))
        assert placed is not None
        names.append(placed.node.name)
    assert len(set(names)) == 1
    assert fleet.place("docker", "large", gpus(4)) is not None


def test_what_needs_no_gpu_keeps_away_from_nodes_that_have_some() -> None:
    assert place([node("a", {T4: 1}), node("z")], Needs(cpus=1))[0] == "z"
    assert place([node("a", {T4: 1})], Needs(cpus=1))[0] == "a"


def test_small_gpus_go_before_large_ones() -> None:
    assert place([node("a", {A100: 1}), node("b", {T4: 1})], gpus(1, A100, T4))[0] == "b"
    needs = gpus(1, A100, T4, gpu_memory_bytes=20 * GIB)
    assert place([node("a", {A100: 1}), node("b", {T4: 1})], needs)[0] == "a"


def test_spot_nodes_are_preferred_where_they_will_do() -> None:
    nodes = [node("a"), node("b", spot=True)]
    assert place(nodes, Needs(cpus=1))[0] == "b"
    assert place(nodes, Needs(cpus=1, spot=False))[0] == "a"


def test_replicas_of_a_session_are_spread() -> None:
    fleet = Fleet([node("a", {T4: 4}), node("b", {T4: 4}), node("c", {T4: 4})])
    names = []
    for _ in range(6):
        placed = fleet.place("docker", "s", gpus(1))
        assert placed is not None
        names.append(placed.node.name)
    assert sorted(names) == ["a", "a", "b", "b", "c", "c"]


def silent(name: str) -> NodeRecord:
    return node(name, {T4: 2}, unreachable="it has not answered yet")


def test_a_node_that_is_awaited_is_better_than_one_that_has_a_replica_of_the_session() -> None:
    fleet = Fleet([silent("a"), node("b", {T4: 2})], awaited={"docker/a"})
    placed = [fleet.place("docker", "s", gpus(1)) for _ in range(4)]
    # The last two are alike wherever they go: nobody waits for that.
    assert [(one.node.name, one.awaited) for one in placed if one] == [
        ("b", False),
        ("a", True),
        ("b", False),
        ("a", True),
    ]
    assert fleet.place("docker", "s", gpus(1)) is None


def test_a_node_that_is_awaited_is_better_than_none_and_worse_than_any_other() -> None:
    fleet = Fleet([silent("a"), node("b", {T4: 1})], awaited={"docker/a"})
    placed = [fleet.place("docker", f"s{n}", gpus(1)) for n in range(2)]
    assert [(one.node.name, one.awaited) for one in placed if one] == [("b", False), ("a", True)]
    assert fleet.peek("docker", "s", gpus(1)) is None


def test_a_node_that_is_not_awaited_any_more_is_out_of_reach() -> None:
    fleet = Fleet([silent("a"), node("b", {T4: 1})])
    placed = [fleet.place("docker", "s", gpus(1)) for _ in range(2)]
    assert [one and one.node.name for one in placed] == ["b", None]
    cordoned = replace(silent("a"), cordoned=True)
    assert Fleet([cordoned], awaited={"docker/a"}).place("docker", "s", gpus(1)) is None


def test_a_node_with_something_unknown_on_it_gives_no_gpus() -> None:
    fleet = Fleet([node("a", {T4: 2})], unverified=frozenset({"docker/a"}))
    assert fleet.place("docker", "s", gpus(1)) is None
    assert fleet.place("docker", "s", Needs(cpus=1)) is not None
    assert "still runs there" in judge(fleet.of_kind("docker")[0], gpus(1)).reasons[0]


def test_of_nodes_that_take_nothing_it_is_not_said_that_they_are_too_small() -> None:
    rooms = Fleet([node("a", {T4: 2}, cordoned=True)]).of_kind("docker")
    text = waiting_text("docker", rooms, gpus(1))
    assert "a: is cordoned" in text
    assert "even if it were empty" not in text


@pytest.mark.parametrize(
    ("nodes", "needs", "reason", "words"),
    [
        ([], gpus(1), Reason.NO_NODE_AVAILABLE, "no node is declared"),
        ([node("a", cordoned=True)], gpus(1), Reason.NO_NODE_AVAILABLE, "podbay node uncordon a"),
        ([node("a", {A100: 1})], gpus(1), Reason.NO_SUCH_GPU_TYPE, f"it has {A100}"),
        ([node("a", {T4: 1})], gpus(2), Reason.INSUFFICIENT_CAPACITY, "1 of 1 such GPU free, 2"),
        ([node("a", {T4: 1})], gpus(2), Reason.INSUFFICIENT_CAPACITY, "even if it were empty"),
        (
            [node("a", {T4: 1})],
            gpus(1, gpu_memory_bytes=40 * GIB),
            Reason.INSUFFICIENT_CAPACITY,
            "has no GPU with 40 GiB (the largest has 16 GiB)",
        ),
        (
            [node("a", {T4: 2}, set_aside={"1": "no answer"})],
            gpus(2),
            Reason.INSUFFICIENT_CAPACITY,
            "set aside: 1 (no answer)",
        ),
        (
            [node("a", spot=True)],
            Needs(cpus=16, memory_bytes=100 * GIB, spot=False),
            Reason.INSUFFICIENT_CAPACITY,
            "a: is a spot node, 8 of 8 CPUs free, 16 needed, 64 GiB of 64 GiB memory free, 100 GiB",
        ),
    ],
)
def test_what_waits_says_why(
    nodes: list[NodeRecord], needs: Needs, reason: Reason, words: str
) -> None:
    rooms = Fleet(nodes).of_kind("docker")
    assert why_waiting(rooms, needs) is reason
    assert words in waiting_text("docker", rooms, needs)


def test_many_nodes_are_named_in_a_bounded_text_and_all_in_a_whole_one() -> None:
    rooms = Fleet([node(f"n{i:03}", {T4: 1}) for i in range(500)]).of_kind("docker")
    text = waiting_text("docker", rooms, gpus(2))
    assert "and 494 more nodes" in text
    assert len(text) < 1000
    assert waiting_text("docker", rooms, gpus(2), bounded=False).count("such GPU") == 500
    rooms = Fleet([node("a", unreachable="x" * 5000)]).of_kind("docker")
    assert len(waiting_text("docker", rooms, gpus(2))) == 1500


def test_needs_in_words() -> None:
    assert needs_text(gpus(2, T4, A100, gpu_memory_bytes=16 * GIB, cpus=1.5, spot=False)) == (
        f"2 GPUs {T4} or {A100} with 16 GiB each, 1.5 CPUs and a node that is not spot"
    )
    assert needs_text(Needs()) == "nothing in particular"
