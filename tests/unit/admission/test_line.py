import pytest

from serve_app.admission.line import Line


def line_of(*items: tuple[str, int, str]) -> Line[str]:
    """Items as (name, tier, key), in the order in which they came."""
    line: Line[str] = Line(3)
    for name, tier, key in items:
        line.add(name, tier, key)
    return line


def take_all(line: Line[str]) -> list[str]:
    taken = []
    while (tier := line.first_tier()) is not None:
        taken.append(line.pop(tier))
    return taken


def anyone(_: str) -> bool:
    return True


def test_an_empty_line() -> None:
    line = line_of()
    assert len(line) == 0
    assert line.first_tier() is None
    assert line.last(-1, anyone) is None
    assert line.num_before(2) == 0


def test_who_came_first_is_first() -> None:
    line = line_of(("a", 0, "k"), ("b", 0, "k"), ("c", 0, "k"))
    assert take_all(line) == ["a", "b", "c"]
    assert len(line) == 0


def test_tiers_come_in_order() -> None:
    line = line_of(("flex", 2, "k"), ("default", 1, "k"), ("priority", 0, "k"))
    assert take_all(line) == ["priority", "default", "flex"]


def test_keys_take_turns() -> None:
    line = line_of(*((f"a{i}", 1, "a") for i in range(4)), ("b0", 1, "b"), ("b1", 1, "b"), ("c0", 1, "c"))
    assert take_all(line) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_a_key_that_comes_later_waits_for_one_turn_of_each_other() -> None:
    line = line_of(*((f"a{i}", 1, "a") for i in range(3)), *((f"b{i}", 1, "b") for i in range(3)))
    assert [line.pop(1), line.pop(1), line.pop(1)] == ["a0", "b0", "a1"]
    line.add("c0", 1, "c")
    assert take_all(line) == ["b1", "a2", "c0", "b2"]


def test_a_key_that_comes_back_goes_to_the_end() -> None:
    line = line_of(("a0", 1, "a"), ("b0", 1, "b"), ("c0", 1, "c"))
    assert line.pop(1) == "a0"
    line.add("a1", 1, "a")
    assert take_all(line) == ["b0", "c0", "a1"]


def test_keys_take_turns_in_each_tier_on_its_own() -> None:
    line = line_of(("p0", 0, "a"), ("a0", 1, "a"), ("a1", 1, "a"), ("b0", 1, "b"))
    assert take_all(line) == ["p0", "a0", "b0", "a1"]


def test_first_goes_before_all_others_of_its_tier() -> None:
    line = line_of(("p0", 0, "z"), ("a0", 1, "a"), ("b0", 1, "b"), ("b1", 1, "b"))
    line.add("b2", 1, "b", first=True)
    assert take_all(line) == ["p0", "b2", "a0", "b0", "b1"]


def test_num_before_counts_a_tier_and_those_before_it() -> None:
    line = line_of(("p0", 0, "a"), ("d0", 1, "a"), ("d1", 1, "b"), ("f0", 2, "a"))
    assert [line.num_before(tier) for tier in range(3)] == [1, 3, 4]
    assert len(line) == 4


def test_who_leaves_is_not_waited_for() -> None:
    line = line_of(("a0", 1, "a"), ("a1", 1, "a"), ("b0", 1, "b"))
    line.remove("a0", 1, "a")
    assert (len(line), line.num_before(1)) == (2, 2)
    assert take_all(line) == ["a1", "b0"]


def test_the_last_of_a_key_and_of_a_tier_leaves_nothing() -> None:
    line = line_of(("a0", 0, "a"), ("b0", 2, "b"))
    line.remove("a0", 0, "a")
    assert line.first_tier() == 2
    line.remove("b0", 2, "b")
    assert line.first_tier() is None
    assert not any(line._tiers)  # keys are not kept


@pytest.mark.parametrize(("name", "tier", "key"), [("b", 1, "k"), ("a", 0, "k"), ("a", 1, "other")])
def test_who_does_not_wait_cannot_leave(name: str, tier: int, key: str) -> None:
    line = line_of(("a", 1, "k"))
    with pytest.raises(KeyError):
        line.remove(name, tier, key)
    assert take_all(line) == ["a"]


def test_who_gives_way_is_the_newest_of_the_key_with_most_in_the_last_tier() -> None:
    line = line_of(
        *((f"d{i}", 1, "d") for i in range(9)),
        ("f0", 2, "a"),
        ("f1", 2, "b"),
        ("f2", 2, "b"),
        ("f3", 2, "a"),
        ("f4", 2, "b"),
        ("f5", 2, "a"),
        ("f6", 2, "b"),
    )
    assert line.last(0, anyone) == "f6"
    assert line.last(1, anyone) == "f6"
    line.remove("f6", 2, "b")
    assert line.last(1, anyone) == "f5"  # as many of both: of the one who came first
    assert len(line) == 15  # nobody has been taken out


def test_nobody_gives_way_to_a_later_tier_or_their_own() -> None:
    line = line_of(("p0", 0, "a"), ("d0", 1, "a"))
    assert line.last(0, anyone) == "d0"
    assert line.last(1, anyone) is None
    assert line.last(2, anyone) is None


def test_who_may_not_go_shields_nobody() -> None:
    line = line_of(
        ("f0", 2, "a"),
        ("f1", 2, "b"),
        ("f2", 2, "a"),
        ("f3", 2, "a"),
        ("d0", 1, "c"),
        ("d1", 1, "c"),
    )

    def last_but(*staying: str, after_tier: int = 0) -> str | None:
        return line.last(after_tier, lambda item: item not in staying)

    assert last_but("f3") == "f2"  # another of the same key
    assert last_but("f3", "f2", "f0") == "f1"  # a key with fewer
    assert last_but("f3", "f2", "f0", "f1") == "d1"  # an earlier tier
    assert last_but("f3", "f2", "f0", "f1", after_tier=1) is None
    assert last_but(*(f"f{number}" for number in range(4)), "d1", "d0") is None
    assert len(line) == 6
