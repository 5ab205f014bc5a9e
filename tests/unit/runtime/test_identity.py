"""Signed tenants: what verify accepts, and every way in which a token is refused."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime import identity
from services.runtime.errors import Unauthenticated

SECRET = b"a secret of sixteen bytes"


def refusal(token: str, secret: bytes = SECRET) -> str:
    with pytest.raises(Unauthenticated) as caught:
        identity.verify(secret, token)
    return caught.value.reason


@given(st.text(min_size=1, max_size=63))
def test_verify_gives_back_the_signed_tenant(tenant: str) -> None:
    assert identity.verify(SECRET, identity.sign(SECRET, tenant)) == tenant


def test_a_token_of_another_secret_is_refused() -> None:
    assert refusal(identity.sign(b"another secret of bytes", "acme")) == "IDENTITY_INVALID"


@given(st.data())
def test_a_token_with_any_changed_character_is_refused(data: st.DataObject) -> None:
    token = identity.sign(SECRET, "acme")
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from([c for c in "0123456789abcdef.xZ" if c != token[at]]))
    assert refusal(token[:at] + other + token[at + 1 :]) == "IDENTITY_INVALID"


def test_another_tenant_under_a_good_signature_is_refused() -> None:
    tenant, rest = identity.sign(SECRET, "acme").split(".", 1)
    assert tenant == b"acme".hex()
    assert refusal(f"{b'evil'.hex()}.{rest}") == "IDENTITY_INVALID"


@pytest.mark.parametrize("token", ["x", ".", "..", "acme", "61.1.", "61.1.00", "61.1." + "0" * 64])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(token) == "IDENTITY_INVALID"


@pytest.mark.parametrize("skew", [-identity.VALID_SECONDS - 5, identity.VALID_SECONDS + 5])
def test_a_token_too_old_or_from_the_future_is_refused(monkeypatch: pytest.MonkeyPatch, skew: float) -> None:
    token = identity.sign(SECRET, "acme")
    now = time.time()
    monkeypatch.setattr(identity.time, "time", lambda: now + skew)
    assert refusal(token) == "IDENTITY_EXPIRED"


def test_a_token_is_good_until_its_hour_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    token = identity.sign(SECRET, "acme")
    now = time.time()
    monkeypatch.setattr(identity.time, "time", lambda: now + identity.VALID_SECONDS - 5)
    assert identity.verify(SECRET, token) == "acme"


@pytest.mark.parametrize("metadata", [(), ((identity.IDENTITY, ""),), (("authorization", "Bearer k"),)])
def test_metadata_without_identity_is_refused(metadata: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        identity.from_metadata(metadata, SECRET)
    assert caught.value.reason == "IDENTITY_MISSING"


def test_from_metadata_reads_tenant_request_id_and_trace_and_passes_just_those_on() -> None:
    token = identity.sign(SECRET, "acme")
    own = ((identity.IDENTITY, token), (identity.REQUEST_ID, "r1"), ("traceparent", "00-1"))
    call = identity.from_metadata((*own, ("user-agent", "x"), ("authorization", "Bearer key")), SECRET)
    assert (call.tenant, call.request_id) == ("acme", "r1")
    assert call.metadata() == own


def test_a_call_without_request_id_gets_one_of_its_own() -> None:
    metadata = ((identity.IDENTITY, identity.sign(SECRET, "acme")),)
    first, second = (identity.from_metadata(metadata, SECRET).request_id for _ in range(2))
    assert first
    assert first != second
