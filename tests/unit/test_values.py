"""Texts of settings: what is understood, what is refused and how."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardserver import values
from shardserver.values import Address, DeviceName, Service


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1us", 1),
        ("200ms", 200_000),
        ("1.5s", 1_500_000),
        ("2m", 120_000_000),
        ("1h", 3_600_000_000),
    ],
)
def test_a_duration_is_a_number_with_its_unit(text: str, us: int) -> None:
    assert values.parse_duration_us(text) == us


@pytest.mark.parametrize("text", ["", "1", "2x", "-1s", "1 s", "s", "١s"])
def test_a_duration_without_a_unit_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 200ms or 1s"):
        values.parse_duration_us(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_survives_its_own_text(us: int) -> None:
    assert values.parse_duration_us(values.duration_text(us)) == us


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("65536", 65536), ("256k", 262144), ("1M", 1048576), ("1GiB", 2**30)],
)
def test_a_size_may_have_a_unit(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "1.5k", "-1", "4g", "1t"])
def test_a_size_that_is_none_or_too_large_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        values.parse_size(text)


def test_an_address_has_a_prefix_or_gets_24() -> None:
    assert values.parse_address("10.0.0.1/16") == Address(0x0A000001, 16)
    assert values.parse_address("10.0.0.1").prefix == 24
    assert str(values.parse_address("10.77.0.1/16")) == "10.77.0.1/16"


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0", "10.0.0.1/33", "10.0.0.1/", "0.0.0.0", "127.0.0.1", "224.0.0.1", "::1",
     "10.0.0.0", "10.0.0.255", "10.0.0.7/30", "10.1.255.255/16"],
)  # fmt: skip
def test_an_address_that_no_host_can_have_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        values.parse_address(text)


@given(st.binary(min_size=6, max_size=6).filter(lambda mac: not mac[0] & 1 and any(mac)))
def test_a_mac_survives_its_own_text(mac: bytes) -> None:
    assert values.parse_mac(values.mac_text(mac)) == mac


@pytest.mark.parametrize(
    "text", ["", "01:00:00:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00", "zz"]
)
def test_a_mac_of_a_group_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        values.parse_mac(text)


@pytest.mark.parametrize("text", ["10.0.0.0/31", "10.0.0.255/32", "10.0.0.255/16"])
def test_the_last_address_of_a_short_prefix_is_a_hosts(text: str) -> None:
    assert str(values.parse_address(text)) == text


@pytest.mark.parametrize("text", ["", "0.0.0.0", "127.0.0.1", "239.0.0.1", "fe80::1"])
def test_a_gateway_is_a_host(text: str) -> None:
    assert values.parse_gateway("10.0.0.254") == 0x0A0000FE
    with pytest.raises(ValueError, match="expected"):
        values.parse_gateway(text)


def test_what_0_cannot_mean_begins_at_1() -> None:
    assert (values.parse_some("1"), values.parse_retries("255")) == (1, 255)
    assert (values.parse_time_us("1us"), values.parse_buffer("4k")) == (1, 4096)
    for parse, text in (
        (values.parse_some, "0"), (values.parse_retries, "0"), (values.parse_retries, "256"),
        (values.parse_time_us, "0s"), (values.parse_buffer, "0"), (values.parse_buffer, "1g"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            parse(text)


def test_a_device_is_no_interface() -> None:
    assert values.parse_interface("eth0-1") == "eth0-1"
    with pytest.raises(ValueError, match="as a device it is --device mem:x"):
        values.parse_interface("mem:x")


@given(st.sets(st.integers(0, 99), min_size=1))
def test_numbers_survive_their_list(numbers: set[int]) -> None:
    assert values.parse_cpus(values.list_text(numbers)) == tuple(sorted(numbers))


def test_services_have_their_usual_ports() -> None:
    assert values.parse_services("discard, http:8080") == (
        Service("discard", 9),
        Service("http", 8080),
    )
    assert values.parse_services("") == ()
    with pytest.raises(ValueError, match="one of echo, discard"):
        values.parse_service("telnet")


def test_cpus_keep_their_order_and_come_once() -> None:
    assert values.parse_cpus("4,0-2,1") == (4, 0, 1, 2)
    assert values.parse_cpus("auto") == ()
    for text in ("", "3-1", "a", "1,,2"):
        with pytest.raises(ValueError, match="expected auto or a list"):
            values.parse_cpus(text)


def test_workers_are_auto_or_1_to_64() -> None:
    assert values.parse_workers("auto") == 0
    assert values.parse_workers("64") == 64
    for text in ("0", "65", "-1", "two"):
        with pytest.raises(ValueError, match="expected auto or a number"):
            values.parse_workers(text)


def test_a_device_names_its_backend() -> None:
    assert values.parse_device("packet:eth0") == DeviceName("packet", "eth0")
    assert values.parse_device("eth0") == DeviceName("auto", "eth0")
    for text in ("eth 0", ":eth0", "mem:", "mem:a b", "foo:eth0", "a-name-that-is-too-long"):
        with pytest.raises(ValueError, match="expected BACKEND:NAME"):
            values.parse_device(text)


def test_an_instance_name_is_fit_for_a_file() -> None:
    assert values.parse_instance("web-1.x") == "web-1.x"
    for text in ("", "../x", "a/b", "-x", "x" * 33):
        with pytest.raises(ValueError, match="expected a name"):
            values.parse_instance(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keep", ()),
        ("symmetric", ("symmetric",)),
        ("equal:4,symmetric", ("equal:4", "symmetric")),
        ("equal", ("equal",)),
    ],
)
def test_rss_words_are_read(text: str, words: tuple[str, ...]) -> None:
    assert values.parse_rss(text) == words


@pytest.mark.parametrize("text", ["", "equal:0", "equal:", "equal,equal:2", "symmetric:1", "x"])
def test_wrong_rss_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected keep"):
        values.parse_rss(text)


def test_a_number_alone_is_seconds_where_seconds_are_meant() -> None:
    assert [values.parse_seconds_us(text) for text in ("0", "30", "1.5", "200ms", "2m")] == [
        0, 30_000_000, 1_500_000, 200_000, 120_000_000,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="expected a duration"):
        values.parse_seconds_us("soon")
