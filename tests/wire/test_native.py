"""The native protocol: values to bytes and back, and hostile bytes."""

import contextlib

import attrs
import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.errors import FrameTooLarge, WireError
from dduomq.wire import frame, native

text = st.text(max_size=20)
number = st.integers(-(2**31), 2**31)
REQUESTS = st.one_of(
    st.builds(native.Hello, number, text, st.lists(text, max_size=3).map(tuple)),
    st.builds(native.Produce, number, st.lists(st.builds(native.ProducePart, text, number, number)).map(tuple)),
    st.builds(
        native.Fetch,
        *[number] * 4,
        st.lists(st.builds(native.FetchPart, text, *[number] * 4), max_size=4).map(tuple),
    ),
    st.builds(native.Metadata, st.none() | st.lists(text, max_size=4).map(tuple), st.booleans()),
    st.builds(native.CreateTopic, text, number, number, st.dictionaries(text, text, max_size=3), st.booleans()),
    st.builds(native.AlterTopic, text, st.dictionaries(text, text, max_size=3), st.lists(text, max_size=3).map(tuple)),
    st.builds(native.DeleteRecords, st.lists(st.builds(native.PurgePart, text, number, number), max_size=3).map(tuple)),
)


@given(REQUESTS, number, number)
def test_a_request_comes_back_as_it_went(body, correlation, timeout_ms):
    """Encode, frame, cut, decode."""
    data = frame.write(native.request_header(correlation, timeout_ms, body))
    header_length, payload_length = frame.read_prefix(data[:8], 1 << 20)
    assert (header_length, payload_length) == (len(data) - 8, 0)
    assert native.read_request(frame.read_header(data[8:])) == (correlation, timeout_ms, body)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_a_wire_error(data):
    """Nothing else may come out of a decoder."""
    with contextlib.suppress(WireError):
        native.read_request(frame.read_header(data))


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(st.sampled_from(list(native.Api)), JUNK)
def test_well_formed_junk_is_a_value_or_a_wire_error(api, body):
    """CBOR that is no request of ours."""
    with contextlib.suppress(WireError):
        native.read_request(frame.read_header(cbor2.dumps([int(api), 1, 1, 1, body])))


@pytest.mark.parametrize("body", [native.Metadata(("a",), True), native.Hello(1, "x", ("f",))])
def test_unknown_trailing_fields_are_ignored_and_missing_ones_have_defaults(body):
    """So that either side may be the newer one."""
    plain = native.to_plain(body)
    assert native.from_plain(type(body), [*plain, "new", 5]) == body
    shorter = native.from_plain(type(body), plain[:-1])
    assert shorter == attrs.evolve(body, **{attrs.fields(type(body))[-1].name: attrs.fields(type(body))[-1].default})


@pytest.mark.parametrize(
    ("prefix", "error"),
    [((1 << 31, 16), FrameTooLarge), ((10, 100), WireError), ((3, 0), WireError)],
)
def test_lengths_that_can_not_be(prefix, error):
    """A length is checked before a byte is allocated for it."""
    with pytest.raises(error):
        frame.read_prefix(frame.PREFIX.pack(*prefix), 1 << 24)


def test_every_request_has_a_number_and_an_answer():
    """The table is whole, and no number stands for two requests."""
    assert set(native.REQUESTS) == set(native.Api)
    assert len(native.API_OF) == len(native.REQUESTS)
