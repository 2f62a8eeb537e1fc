import pytest

from serve_app.admission.service_time import (
    MAX_RETRY_AFTER_S,
    MIN_RETRY_AFTER_S,
    WINDOW,
    RetrySchedule,
    ServiceTime,
)


def service_time(*seconds: float) -> ServiceTime:
    service = ServiceTime()
    for each in seconds:
        service.add(each)
    return service


def test_nothing_is_known_before_a_sequence_has_ended() -> None:
    service = service_time()
    assert service.mean_s is None
    assert service.wait_s(5, 2) is None


def test_at_first_the_mean_is_that_of_all() -> None:
    assert service_time(4.0).mean_s == 4.0
    assert service_time(1.0, 2.0, 6.0).mean_s == pytest.approx(3.0)


def test_a_sequence_of_no_length_counts_too() -> None:
    assert service_time(0.0).mean_s == 0.0
    assert service_time(0.0).wait_s(5, 1) == 0.0


def test_the_mean_follows_a_load_that_changes() -> None:
    service = service_time(*[10.0] * 1000)
    assert service.mean_s == pytest.approx(10.0)
    service.add(10.0 + WINDOW)
    assert service.mean_s == pytest.approx(11.0)  # one of WINDOW
    for _ in range(10 * WINDOW):
        service.add(2.0)
    assert service.mean_s == pytest.approx(2.0, abs=0.01)


def test_the_wait_is_littles_law() -> None:
    service = service_time(6.0)
    assert service.wait_s(0, 4) == 0.0
    assert service.wait_s(4, 4) == pytest.approx(6.0)
    assert service.wait_s(10, 4) == pytest.approx(15.0)


def test_without_slots_there_is_no_rate() -> None:
    assert service_time(6.0).wait_s(1, 0) is None


# --- when to come back ---------------------------------------------------------------------------------


def test_where_nothing_is_known_it_is_soon() -> None:
    assert RetrySchedule().next(1000.0, None, 3, 0.5) == MIN_RETRY_AFTER_S


def test_after_those_who_wait_and_the_request_itself() -> None:
    assert RetrySchedule().next(1000.0, 5.0, 2, 0.5) == pytest.approx(6.0)


def test_each_is_told_a_later_time() -> None:
    schedule = RetrySchedule()
    told = [schedule.next(1000.0, 5.0, 1, 0.5) for _ in range(4)]
    assert told == pytest.approx([5.5, 6.0, 6.5, 7.0])


def test_a_request_of_many_sequences_takes_as_much_time() -> None:
    schedule = RetrySchedule()
    assert schedule.next(1000.0, 5.0, 8, 0.5) == pytest.approx(9.0)
    assert schedule.next(1000.0, 5.0, 1, 0.5) == pytest.approx(9.5)


def test_retry_schedule_that_have_passed_are_not_waited_for() -> None:
    schedule = RetrySchedule()
    for _ in range(20):
        schedule.next(1000.0, 5.0, 1, 0.5)
    assert schedule.next(1020.0, 5.0, 1, 0.5) == pytest.approx(5.5)


def test_nobody_is_told_more_than_openais_client_waits_or_less_than_a_second() -> None:
    schedule = RetrySchedule()
    told = [schedule.next(1000.0, 5.0, 1, 3.0) for _ in range(100)]
    assert max(told) == told[-1] == MAX_RETRY_AFTER_S
    assert RetrySchedule().next(1000.0, 500.0, 1, 0.5) == MAX_RETRY_AFTER_S
    assert RetrySchedule().next(1000.0, 0.0, 1, 0.001) == MIN_RETRY_AFTER_S


def test_one_who_is_told_the_most_does_not_put_the_others_off_for_ever() -> None:
    schedule = RetrySchedule()
    for _ in range(100):
        schedule.next(1000.0, 500.0, 100, 10.0)
    assert schedule.next(1000.0 + MAX_RETRY_AFTER_S, 2.0, 1, 0.5) == pytest.approx(2.5)
