import pytest

from serve_app.admission.engine_slots import EngineSlots


def slots_of(*replicas: str, per_replica: int = 2, reserved_share: float = 0.0) -> EngineSlots:
    slots = EngineSlots(per_replica, reserved_share)
    slots.replicas = replicas
    return slots


def test_no_replica_no_slots() -> None:
    slots = slots_of()
    assert (slots.num_all, slots.num_free, slots.num_taken, slots.num_reserved) == (0, 0, 0, 0)
    assert list(slots.replicas) == []


def test_the_replica_with_the_fewest_taken_is_next() -> None:
    slots = slots_of("a", "b", "c")
    assert [slots.take() for _ in range(3)] == ["a", "b", "c"]
    slots.give_back("b")
    assert slots.take() == "b"
    assert [slots.take() for _ in range(3)] == ["a", "b", "c"]
    assert (slots.num_all, slots.num_free, slots.num_taken) == (6, 0, 6)


def test_a_slot_that_is_given_back_is_free() -> None:
    slots = slots_of("a")
    assert (slots.take(), slots.take()) == ("a", "a")
    assert slots.num_free == 0
    slots.give_back("a")
    assert (slots.num_free, slots.num_taken) == (1, 1)


def test_slots_on_a_replica_that_has_left_count_until_they_are_given_back() -> None:
    slots = slots_of("a", "b")
    slots.take("a")
    slots.replicas = ["b"]
    assert (slots.num_all, slots.num_free, slots.num_taken) == (2, 2, 1)
    slots.give_back("a")
    assert (slots.num_all, slots.num_free, slots.num_taken) == (2, 2, 0)
    assert not slots._loads  # nothing is kept of it


def test_a_replica_that_comes_back_has_the_slots_that_it_had() -> None:
    slots = slots_of("a")
    slots.take()
    slots.replicas = []
    assert slots.num_free == 0
    slots.replicas = ["a"]
    assert slots.num_free == 1


def test_a_replica_with_more_than_it_may_have_makes_no_others_fewer() -> None:
    slots = slots_of("a", "b")
    for _ in range(5):
        slots.take("a")  # as an ingress says that it was
    assert slots.num_free == 2
    assert [slots.take(), slots.take()] == ["b", "b"]
    for _ in range(4):
        slots.give_back("a")
    assert slots.num_free == 1


def test_slots_on_a_replica_that_is_not_ready_can_be_taken_by_name_only() -> None:
    slots = slots_of("a")
    assert slots.take("new") == "new"
    assert [slots.take(), slots.take()] == ["a", "a"]
    assert (slots.num_all, slots.num_free, slots.num_taken) == (2, 0, 3)


# --- death ---------------------------------------------------------------------------------------------


def test_a_replica_that_is_lost_gets_nobody_although_serve_still_names_it() -> None:
    slots = slots_of("a", "b")
    slots.lose("a")
    assert list(slots.replicas) == ["b"]
    slots.replicas = ["a", "b"]
    assert list(slots.replicas) == ["b"]
    assert [slots.take(), slots.take()] == ["b", "b"]
    assert slots.num_free == 0


def test_what_was_lost_is_forgotten_when_serve_knows_of_it() -> None:
    slots = slots_of("a", "b")
    slots.lose("a")
    slots.replicas = ["b"]
    assert not slots._lost


def test_losing_a_replica_that_nobody_knows_or_a_second_time_changes_nothing() -> None:
    slots = slots_of("a", "b")
    slots.lose("c")
    slots.lose("a")
    slots.lose("a")
    assert list(slots.replicas) == ["b"]
    slots.replicas = ["a", "b", "c"]
    assert list(slots.replicas) == ["b", "c"]


# --- the reserve ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "num_replicas", "per_replica", "reserved"),
    [
        (0.0, 1, 10, 0),
        (0.1, 1, 64, 6),
        (0.1, 2, 64, 12),
        (0.1, 1, 4, 1),  # at least one
        (0.01, 1, 2, 1),
        (0.1, 1, 1, 0),  # but not all
        (0.99, 1, 2, 1),
        (0.1, 0, 4, 0),
    ],
)
def test_the_reserve(share: float, num_replicas: int, per_replica: int, reserved: int) -> None:
    replicas = [str(number) for number in range(num_replicas)]
    assert slots_of(*replicas, per_replica=per_replica, reserved_share=share).num_reserved == reserved


def test_the_reserve_is_of_all_slots_and_not_of_the_free_ones() -> None:
    slots = slots_of("a", per_replica=10, reserved_share=0.2)
    for _ in range(9):
        slots.take()
    assert (slots.num_free, slots.num_reserved) == (1, 2)
