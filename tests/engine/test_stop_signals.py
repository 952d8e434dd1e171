"""Signals that ask a run to end."""

import os
import signal
import threading

import pytest

from mrcnn_plugin.engine.stop_signals import Interrupted, Stopped, StopSignals

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_remembered_and_handlers_are_restored(number):
    before = [signal.getsignal(s) for s in SIGNALS]
    with StopSignals() as signals:
        assert signals.received is None
        send(number)
        assert signals.received == number
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_it_raises_only_where_work_can_be_repeated():
    with StopSignals() as signals:
        with pytest.raises(Interrupted), signals.raising():
            send(signal.SIGTERM)
            pytest.fail("the signal did not interrupt")
        send(signal.SIGTERM)  # schedulers repeat it
        with pytest.raises(Interrupted), signals.raising():
            pytest.fail("the earlier signal did not interrupt")


def test_a_second_ctrl_c_ends_at_once():
    with StopSignals():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_other_threads_cannot_handle_signals_and_do_not_fail():
    seen = []

    def run():
        with StopSignals() as signals:
            seen.append(signals.received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_the_exit_status(number, status):
    assert Stopped(number).code == status
