"""Signals: at once where nothing can be lost, between two steps in training, at once when repeated."""

import os
import signal
import threading

import pytest

from lsx.cli.interrupts import NOTICE, SIGNALS, Interrupts, Stopped


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_of_training_a_signal_raises_at_once(number: int) -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_in_training_it_waits_for_the_next_step(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    steps = 0
    with Interrupts() as interrupts, pytest.raises(Stopped), interrupts.between_steps():
        interrupts.check()
        os.kill(os.getpid(), number)
        steps += 1
        interrupts.check()
        steps += 1
    assert steps == 1
    assert capfd.readouterr().err == NOTICE.decode()


def test_a_second_signal_does_not_wait() -> None:
    steps = 0
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt) as raised, interrupts.between_steps():
        os.kill(os.getpid(), signal.SIGINT)
        steps += 1
        os.kill(os.getpid(), signal.SIGINT)
        steps += 1
    assert steps == 1
    assert raised.type is KeyboardInterrupt  # not Stopped: the state is not whole


def test_a_signal_after_the_last_step_is_not_forgotten() -> None:
    with Interrupts() as interrupts, pytest.raises(Stopped), interrupts.between_steps():
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="other"), Interrupts():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        raise ValueError("other")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_other_threads_have_no_handlers() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with Interrupts() as interrupts, interrupts.between_steps():
                interrupts.check()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
