"""One nursery for all tests of the grader: it imports torch once."""

import pytest
from helpers import NOTEBOOKS, TESTS

from lora_edu.course.classroom.confine import Limits
from lora_edu.course.classroom.pupils import Nursery


@pytest.fixture(scope="session")
def nursery():
    nursery = Nursery(Limits(seconds=20.0, memory=1_500_000_000), (NOTEBOOKS, TESTS))
    yield nursery
    nursery.close()
