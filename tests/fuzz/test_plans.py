"""A damaged plan is as good as none; it is never another plan."""

from contextlib import closing

import pytest

from edgekit.bundle import open_bundle
from edgekit.runtime.backends.trt.plans import PlanStore
from tests.fuzz.worker import WronglyAcceptedError
from tests.runtime.backends.trt.test_plans import KEY, PLAN, note, publish


@pytest.fixture
def store(tiny_bundle):
    return PlanStore(open_bundle(tiny_bundle().folder))


def test_a_damaged_plan_is_as_good_as_none(fuzz, store):
    path = publish(store, note(), PLAN)
    whole = path.read_bytes()

    def attempt(case):
        path.write_bytes(case.data(whole))
        store.notes("encoder")
        if (held := store.open("encoder", KEY)) is not None:
            with closing(held[1]) as reader:
                if reader.read(len(whole)) != PLAN:
                    raise WronglyAcceptedError("the bytes of another plan")

    fuzz("plan", attempt)
