"""Who is let in, what is bound, how it is announced and how it ends."""

import asyncio
import socket

import pytest
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.ping import Ping

from edgekit.errors import UsageError
from edgekit.serving.guard import check_open, is_loopback
from edgekit.serving.limits import Limits
from edgekit.serving.server import Server
from edgekit.serving.wyoming.admission import Admission
from edgekit.serving.wyoming.announcement import SERVICE, Announcement, label
from edgekit.serving.wyoming.neighbour import Wyoming
from tests.serving.test_server import held
from tests.serving.wyoming.conftest import WAIT_S, Settings
from tests.serving.wyoming.test_connection import recording, transcript_of


@pytest.mark.parametrize(
    ("networks", "client", "admitted"),
    [
        ((), "127.0.0.1", True), ((), "127.9.8.7", True), ((), "::1", True), ((), "::ffff:127.0.0.1", True),
        ((), "192.168.1.20", False), ((), "fe80::1%eth0", False), ((), "", False), ((), "nonsense", False),
        (("192.168.1.0/24",), "192.168.1.20", True), (("192.168.1.0/24",), "::ffff:192.168.1.20", True),
        (("192.168.1.0/24",), "192.168.2.1", False), (("192.168.1.20",), "192.168.1.20", True),
        (("192.168.1.20",), "192.168.1.21", False), (("fd00::/8",), "fd12::1", True),
        (("fd00::/8",), "10.0.0.1", False),
        (("fe80::/10",), "fe80::1%eth0", True), (("0.0.0.0/0",), "8.8.8.8", True), (("0.0.0.0/0",), "fd12::1", False),
    ],
)  # fmt: skip
def test_clients_of_this_machine_and_of_the_networks_that_are_named_are_let_in(networks, client, admitted):
    assert Admission(networks).admits(client) is admitted


@pytest.mark.parametrize("network", ["", "kitchen", "192.168.1.20/24", "192.168.1.0/33", "::/200", "1.2.3", "x" * 5000])
def test_what_is_no_network_is_refused_by_its_name(network):
    with pytest.raises(UsageError, match=r"^wyoming.networks: .*; give addresses or networks such as 192.168.1.0/24"):
        Wyoming(Server(None), Settings(networks=("10.0.0.0/8", network)))


@pytest.mark.parametrize("addresses", [["0.0.0.0"], ["::"], ["192.168.1.5"], ["127.0.0.1", "192.168.1.5"]])  # noqa: S104
def test_a_bind_that_others_reach_is_refused_unless_somebody_says_who_may(addresses):
    assert not all(map(is_loopback, addresses))
    with pytest.raises(
        UsageError, match="^wyoming.host: 'kitchen' .*neither passwords nor encryption.*who may by wyoming.networks"
    ):
        check_open("kitchen", addresses, ())
    check_open("kitchen", addresses, Admission(["192.168.1.20"]).networks)


def test_a_server_that_others_would_reach_does_not_start_by_itself():
    async def run():
        with pytest.raises(UsageError, match="^wyoming.host: '0.0.0.0' can be reached from other machines"):
            await Wyoming(Server(None), Settings(host="0.0.0.0")).start()  # noqa: S104

    asyncio.run(run())


def test_names_of_this_machine_are_loopback(listening):
    async def run():
        async with listening(host="localhost") as at, at.client() as client:
            await client.say(Ping())
            assert (await client.next()).type == "pong"

    asyncio.run(run())


def test_a_second_server_on_the_port_is_refused_and_the_first_lives_on(listening):
    async def run():
        async with listening() as at:
            port = int(at.address.rsplit(":", 1)[1])
            with pytest.raises(OSError, match="ddress already in use"):
                await Wyoming(Server(None), Settings(port=port)).start()
            async with at.client() as client:
                await client.say(Ping())
                assert (await client.next()).type == "pong"

    asyncio.run(run())


def other_address():
    """Return an address of this machine that is not loopback, or skip."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))  # nothing is sent: a route is looked up
        except OSError:
            pytest.skip("this machine has no network")
        return one.getsockname()[0]


def test_who_comes_from_elsewhere_is_turned_away_with_the_reason_and_who_is_named_is_served(listening, caplog):
    address = other_address()

    async def ask(at):
        port = int(at.address.rsplit(":", 1)[1])
        async with AsyncTcpClient(address, port) as client:
            await client.write_event(Ping().event())
            return await asyncio.wait_for(client.read_event(), WAIT_S)

    async def run():
        async with listening(host="0.0.0.0", networks=("198.51.100.0/24",)) as at:  # noqa: S104
            error = Error.from_event(await ask(at))
            assert (error.code, error.text) == ("client", f"wyoming: {address} is in none of `networks`; add it there")
            async with at.client() as client:
                await client.say(Ping())
                assert (await client.next()).type == "pong"
        async with listening(host=address, networks=("198.51.100.0/24", f"{address}/32")) as at:
            assert (await ask(at)).type == "pong"

    asyncio.run(run())
    assert "has no password and no encryption; it serves whoever comes from 198.51.100.0/24" in caplog.text


def test_one_client_too_many_is_turned_away_and_taken_once_another_leaves(listening):
    async def run():
        async with listening(connections=2) as at:
            async with at.client() as first, at.client() as second:
                for client in (first, second):
                    await client.say(Ping())
                    await client.next()
                async with at.client() as third:
                    assert Error.from_event(await third.next()).code == "connections"
                    assert await third.is_over()
            for _ in range(1000):
                async with at.client() as client:
                    await client.say(Ping())
                    if (await client.next()).type == "pong":
                        return
            pytest.fail("no room came")

    asyncio.run(run())


def test_a_thousand_clients_that_come_and_go_leave_nothing(listening):
    async def run():
        async with listening() as at:
            tasks = len(asyncio.all_tasks())
            for number in range(1000):
                async with at.client() as client:
                    if number % 2:
                        await client.say(Ping())
                        await client.next()
            while at.wyoming.clients:  # noqa: ASYNC110 - they leave by themselves
                await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == tasks
            assert at.server.streams == []

    asyncio.run(run())


def test_it_stops_while_clients_are_connected_and_an_answer_that_is_on_its_way_arrives(listening, load):
    model, encoder = held(load())
    encoder.may.clear()

    async def run():
        async with listening(model) as at, at.client() as idle, at.client() as client:
            await idle.say(Ping())
            await idle.next()
            await client.say(*recording())
            assert await asyncio.to_thread(encoder.waits.wait, WAIT_S)
            loop = asyncio.get_running_loop()
            stopping = loop.run_in_executor(None, at.server.stop, WAIT_S)
            encoder.may.set()
            await asyncio.gather(at.wyoming.stop(), stopping)
            assert transcript_of(await client.until("transcript-stop"))
            assert await idle.is_over()
            assert await client.is_over()

    asyncio.run(run())


def test_a_recording_that_was_not_heard_to_its_end_is_no_transcript(listening, load):
    """The server stops, and its engine is slower than it may be: what is there of the text is not the text."""
    model, encoder = held(load())
    encoder.may.clear()

    async def run():
        async with listening(model) as at, at.client() as client:
            await client.say(*recording())
            assert await asyncio.to_thread(encoder.waits.wait, WAIT_S)
            await asyncio.to_thread(at.server.stop, 0.1)
            error = Error.from_event(await client.next())
            assert (error.code, "not all of it was heard" in error.text) == ("stopping", True)
            assert await client.is_over()
            encoder.may.set()

    asyncio.run(run())


def test_it_stops_soon_though_a_client_goes_on_talking(listening):
    async def run():
        async with listening() as at, at.client() as client:
            await client.say(*recording()[:-1])
            await client.until("transcript-chunk")
            await asyncio.wait_for(at.wyoming.stop(), 3.0)
            assert at.wyoming.clients == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edgekit-tiny", "edgekit-tiny"), ("My Kitchen", "My-Kitchen"), ("a.b..c", "a-b-c"), ("", "edgekit"),
        ("\n", "edgekit"), ("ä" * 40, "ä" * 31),
    ],
)  # fmt: skip
def test_a_name_becomes_one_label_of_dns(text, expected):
    assert label(text) == expected
    assert len(label(text).encode()) <= 63


@pytest.fixture
def browsing():
    """Return a function that runs a coroutine with the zeroconf of another machine, both on this one's loopback."""
    zeroconf = pytest.importorskip("zeroconf.asyncio")

    def run(work):
        async def inner():
            other = zeroconf.AsyncZeroconf(interfaces=["127.0.0.1"])
            try:
                return await work(other)
            finally:
                await other.async_close()

        try:
            return asyncio.run(inner())
        except OSError as error:
            pytest.skip(f"no multicast on this machine's loopback: {error}")

    return run


async def browsed(other, wanted):
    """Return what a browser of Home Assistant's type sees, until it is as wanted."""
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser

    names, changed = set(), asyncio.Event()

    def seen(zeroconf, service_type, name, state_change):
        (names.discard if state_change is ServiceStateChange.Removed else names.add)(name)
        changed.set()

    browser = AsyncServiceBrowser(other.zeroconf, SERVICE, handlers=[seen])
    try:
        while not wanted(names):
            await asyncio.wait_for(changed.wait(), WAIT_S)
            changed.clear()
    finally:
        await browser.async_cancel()
    return names


def test_home_assistant_s_browser_sees_what_is_announced_and_that_it_is_gone(browsing):
    own = f"kitchen-{socket.gethostname()}"

    async def work(other):
        from zeroconf.asyncio import AsyncServiceInfo

        one = Announcement(own, 10_300, ["198.51.100.7"], interfaces=["127.0.0.1"])
        two = Announcement(own, 10_301, ["198.51.100.8"], interfaces=["127.0.0.1"])
        try:
            await one.start()
            await two.start()
            assert one.name == f"{label(own)}.{SERVICE}"
            assert two.name != one.name
            await browsed(other, lambda names: {one.name, two.name} <= names)
            for announced, port, address in ((one, 10_300, "198.51.100.7"), (two, 10_301, "198.51.100.8")):
                info = AsyncServiceInfo(SERVICE, announced.name)
                assert await info.async_request(other.zeroconf, 3000)
                assert (info.port, info.parsed_addresses()) == (port, [address])
            name = one.name
        finally:
            await one.stop()
            await two.stop()
        await browsed(other, lambda names: name not in names)

    browsing(work)


def test_nothing_is_announced_where_nobody_else_comes_and_once_the_model_is_there_where_others_do(
    load, monkeypatch, caplog
):
    address, started = other_address(), []

    async def start(announcement):
        started.append(announcement)
        raise OSError("no multicast here")

    monkeypatch.setattr(Announcement, "start", start)

    async def run():
        server = Server(None, Limits())
        alone = Wyoming(server, Settings(zeroconf=True))
        await alone.start()
        others = Wyoming(server, Settings(host=address, networks=("198.51.100.0/24",), zeroconf=True, name="hall"))
        await others.start()
        await asyncio.sleep(0)
        assert started == []
        server.model = load()
        while not started:  # noqa: ASYNC110 - a replaced method cannot wait for a test
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        await asyncio.gather(alone.stop(), others.stop())

    asyncio.run(run())
    assert [one._name for one in started] == [label(f"hall-{socket.gethostname()}")]
    assert "wyoming: not announced (no multicast here); name host and port to Home Assistant yourself" in caplog.text


def test_home_assistant_gets_its_info_within_the_second_that_it_waits(listening):
    async def run():
        async with listening() as at, at.client() as client:
            await client.say(Describe())
            event = await asyncio.wait_for(client.next(), 1.0)
            assert Info.from_event(event).asr[0].installed

    asyncio.run(run())
