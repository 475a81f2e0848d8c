from __future__ import annotations

from collections.abc import Iterable

from minerwatch.node.pool_dns import PoolNames
from tests.waiting import until

ADDRESSES = {"pool.one": ["10.0.0.1", "10.0.0.2"], "pool.two": ["10.0.0.2"]}


def looked_up(host: str) -> Iterable[str]:
    if host not in ADDRESSES:
        raise OSError("no such host")
    return ADDRESSES[host]


def test_an_address_has_the_names_of_all_servers_behind_it() -> None:
    names = PoolNames(["pool.one", "gone.pool", "pool.two"], looked_up)
    until(lambda: bool(names.names("10.0.0.1")))
    assert names.names("10.0.0.1") == ("pool.one",)
    assert names.names("10.0.0.2") == ("pool.one", "pool.two")
    assert names.names("10.0.0.3") == ()
    names.close()


def test_the_real_resolver() -> None:
    names = PoolNames(["localhost", "a" * 300])
    until(lambda: bool(names.names("127.0.0.1") or names.names("::1")))
    names.close()


def test_closing_ends_the_thread() -> None:
    names = PoolNames([], looked_up)
    names.close()
    names._thread.join(30)
    assert not names._thread.is_alive()
