"""One local Ray for the whole session, started by the first test that asks for it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cluster.connect import Connection


def pytest_configure(config: pytest.Config) -> None:
    """Warnings of Ray that nobody here can mend."""
    # Ray Data warns of old settings of its own when it is imported, and Ray Train imports it.
    config.addinivalue_line("filterwarnings", r"ignore:.* is deprecated:DeprecationWarning:ray\.data\.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests on the local Ray go to one process of pytest-xdist, so that there is one Ray and not one for each."""
    for item in items:
        if "local_ray" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def local_ray() -> Iterator["Connection"]:
    """An embedded Ray with two CPUs. Executors that are entered meanwhile use it and leave it running."""
    from cluster.connect import connect

    connection = connect(cpus=2)
    yield connection
    connection.close()
