import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.admission.fair_queue import FairQueue


def queue_of(*items: tuple[str, int, str]) -> FairQueue[str]:
    """Items as (name, tier, key), in the order in which they came."""
    queue: FairQueue[str] = FairQueue(3)
    for name, tier, key in items:
        queue.add(name, tier, key)
    return queue


def take_all(queue: FairQueue[str]) -> list[str]:
    taken = []
    while (tier := queue.first_tier()) is not None:
        taken.append(queue.pop(tier))
    return taken


def anyone(_: str) -> bool:
    return True


def test_an_empty_queue() -> None:
    queue = queue_of()
    assert len(queue) == 0
    assert queue.first_tier() is None
    assert queue.last(-1, anyone) is None
    assert queue.num_before(2) == 0


def test_who_came_first_is_first() -> None:
    queue = queue_of(("a", 0, "k"), ("b", 0, "k"), ("c", 0, "k"))
    assert take_all(queue) == ["a", "b", "c"]
    assert len(queue) == 0


def test_tiers_come_in_order() -> None:
    queue = queue_of(("flex", 2, "k"), ("default", 1, "k"), ("priority", 0, "k"))
    assert take_all(queue) == ["priority", "default", "flex"]


def test_keys_take_turns() -> None:
    queue = queue_of(*((f"a{i}", 1, "a") for i in range(4)), ("b0", 1, "b"), ("b1", 1, "b"), ("c0", 1, "c"))
    assert take_all(queue) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_a_key_that_comes_later_waits_for_one_turn_of_each_other() -> None:
    queue = queue_of(*((f"a{i}", 1, "a") for i in range(3)), *((f"b{i}", 1, "b") for i in range(3)))
    assert [queue.pop(1), queue.pop(1), queue.pop(1)] == ["a0", "b0", "a1"]
    queue.add("c0", 1, "c")
    assert take_all(queue) == ["b1", "a2", "c0", "b2"]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcd")), max_size=30),
    st.integers(0, 2),
    st.sampled_from("abcde"),
)
def test_how_many_a_new_item_waits_for(items: list[tuple[int, str]], tier: int, key: str) -> None:
    queue = queue_of(*((f"{index}", one_tier, one_key) for index, (one_tier, one_key) in enumerate(items)))
    expected = queue.num_before_of(tier, key)
    is_new = (tier, key) not in items
    queue.add("new", tier, key)
    waited_for = take_all(queue).index("new")
    # A key that waits already may have its turn before others.
    assert expected - (0 if is_new else 3) <= waited_for <= expected


def test_a_key_that_comes_back_goes_to_the_end() -> None:
    queue = queue_of(("a0", 1, "a"), ("b0", 1, "b"), ("c0", 1, "c"))
    assert queue.pop(1) == "a0"
    queue.add("a1", 1, "a")
    assert take_all(queue) == ["b0", "c0", "a1"]


def test_keys_take_turns_in_each_tier_on_its_own() -> None:
    queue = queue_of(("p0", 0, "a"), ("a0", 1, "a"), ("a1", 1, "a"), ("b0", 1, "b"))
    assert take_all(queue) == ["p0", "a0", "b0", "a1"]


def test_first_goes_before_all_others_of_its_tier() -> None:
    queue = queue_of(("p0", 0, "z"), ("a0", 1, "a"), ("b0", 1, "b"), ("b1", 1, "b"))
    for name in ("b2", "b3", "a1"):
        queue.add(name, 1, name[0], first=True)
    queue.remove("b3", 1, "b")
    assert queue.num_before_of(1, "c") == 1 + 2 + 2
    assert take_all(queue) == ["p0", "b2", "a1", "a0", "b0", "b1"]


def test_num_before_counts_a_tier_and_those_before_it() -> None:
    queue = queue_of(("p0", 0, "a"), ("d0", 1, "a"), ("d1", 1, "b"), ("f0", 2, "a"))
    assert [queue.num_before(tier) for tier in range(3)] == [1, 3, 4]
    assert len(queue) == 4


def test_who_leaves_is_not_waited_for() -> None:
    queue = queue_of(("a0", 1, "a"), ("a1", 1, "a"), ("b0", 1, "b"))
    queue.remove("a0", 1, "a")
    assert (len(queue), queue.num_before(1)) == (2, 2)
    assert take_all(queue) == ["a1", "b0"]


def test_the_last_of_a_key_and_of_a_tier_leaves_nothing() -> None:
    queue = queue_of(("a0", 0, "a"), ("b0", 2, "b"))
    queue.remove("a0", 0, "a")
    assert queue.first_tier() == 2
    queue.remove("b0", 2, "b")
    assert queue.first_tier() is None
    assert not any(queue._tiers)  # keys are not kept


@pytest.mark.parametrize(("name", "tier", "key"), [("b", 1, "k"), ("a", 0, "k"), ("a", 1, "other")])
def test_who_does_not_wait_cannot_leave(name: str, tier: int, key: str) -> None:
    queue = queue_of(("a", 1, "k"))
    with pytest.raises(KeyError):
        queue.remove(name, tier, key)
    assert take_all(queue) == ["a"]


def test_who_gives_way_is_the_newest_of_the_key_with_most_in_the_last_tier() -> None:
    queue = queue_of(
        *((f"d{i}", 1, "d") for i in range(9)),
        ("f0", 2, "a"),
        ("f1", 2, "b"),
        ("f2", 2, "b"),
        ("f3", 2, "a"),
        ("f4", 2, "b"),
        ("f5", 2, "a"),
        ("f6", 2, "b"),
    )
    assert queue.last(0, anyone) == "f6"
    assert queue.last(1, anyone) == "f6"
    queue.remove("f6", 2, "b")
    assert queue.last(1, anyone) == "f5"  # as many of both: of the one who came first
    assert len(queue) == 15  # nobody has been taken out


def test_nobody_gives_way_to_a_later_tier_or_their_own() -> None:
    queue = queue_of(("p0", 0, "a"), ("d0", 1, "a"))
    assert queue.last(0, anyone) == "d0"
    assert queue.last(1, anyone) is None
    assert queue.last(2, anyone) is None


def test_who_may_not_go_shields_nobody() -> None:
    queue = queue_of(
        ("f0", 2, "a"),
        ("f1", 2, "b"),
        ("f2", 2, "a"),
        ("f3", 2, "a"),
        ("d0", 1, "c"),
        ("d1", 1, "c"),
    )

    def last_but(*staying: str, after_tier: int = 0) -> str | None:
        return queue.last(after_tier, lambda item: item not in staying)

    assert last_but("f3") == "f2"  # another of the same key
    assert last_but("f3", "f2", "f0") == "f1"  # a key with fewer
    assert last_but("f3", "f2", "f0", "f1") == "d1"  # an earlier tier
    assert last_but("f3", "f2", "f0", "f1", after_tier=1) is None
    assert last_but(*(f"f{number}" for number in range(4)), "d1", "d0") is None
    assert len(queue) == 6
