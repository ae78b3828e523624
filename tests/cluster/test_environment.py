"""Variables that several threads hold at once."""

import os
import threading

from cluster.environment import Shared


def test_variables_that_two_threads_hold_are_given_back_by_the_last() -> None:
    settings = Shared({"REPSCOPE_TESTED": "set"})
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with settings.held():
            entered.set()
            assert leave.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    assert entered.wait(60)
    with settings.held():
        leave.set()
        other.join()
        assert os.environ["REPSCOPE_TESTED"] == "set"
    assert "REPSCOPE_TESTED" not in os.environ
