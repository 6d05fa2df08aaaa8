"""CoreDNS's Corefile, edited and given back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.standins import corefile

KUBEADM = """\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
"""
HOST = "servicebus.standins.svc.cluster.local"
ROUTES = {"*.servicebus.windows.net": HOST, "login.microsoftonline.com": HOST}


def rules(text: str) -> list[list[str]]:
    """The words of the rewrite rules."""
    return [line.split() for line in text.splitlines() if line.strip().startswith("rewrite")]


def leads(text: str, name: str) -> str:
    """Where the rules lead a name that is asked for, as CoreDNS reads them; empty: nowhere."""
    for stop, kind, way, expression, host, *answer in (rule[1:] for rule in rules(text)):
        assert (stop, kind, way, answer) == ("stop", "name", "regex", ["answer", "auto"])
        if re.search(expression, f"{name}."):
            return host
    return ""


def test_names_are_led_and_the_rest_stays_as_it_is() -> None:
    led = corefile.redirect(KUBEADM, ROUTES)
    assert leads(led, "contoso-llm-engine.servicebus.windows.net") == f"{HOST}."
    assert leads(led, "login.microsoftonline.com") == f"{HOST}."
    lines = led.splitlines()
    assert lines[0] == ".:53 {"
    assert lines[1] == corefile.BEGIN
    assert [line for line in lines if line in KUBEADM.splitlines()] == KUBEADM.splitlines()


@pytest.mark.parametrize(
    "name",
    [
        "servicebus.windows.net",
        "a.b.servicebus.windows.net",
        "contoso.servicebus.windows.net.launch.svc.cluster.local",
        "contoso.servicebus.windows.net.evil.example",
        "contoso.servicebusXwindows.net",
        "login.microsoftonline.com.launch.svc.cluster.local",
        "www.login.microsoftonline.com",
    ],
)
def test_no_other_name_is_led(name: str) -> None:
    assert leads(corefile.redirect(KUBEADM, ROUTES), name) == ""


def test_what_was_put_in_is_taken_away_to_the_byte() -> None:
    for text in (KUBEADM, KUBEADM.rstrip("\n"), KUBEADM.replace("\n", "\r\n"), "\n\n" + KUBEADM):
        led = corefile.redirect(text, ROUTES)
        assert led != text
        assert corefile.without(led) == text


def test_leading_again_replaces() -> None:
    once = corefile.redirect(KUBEADM, ROUTES)
    other = {"*.servicebus.windows.net": "servicebus.standins-prod.svc.cluster.local"}
    again = corefile.redirect(once, other)
    assert again == corefile.redirect(KUBEADM, other)
    assert corefile.redirect(again, {}) == KUBEADM


def test_what_somebody_else_changed_meanwhile_stays() -> None:
    changed = corefile.redirect(KUBEADM, ROUTES).replace("ttl 30", "ttl 5")
    assert corefile.without(changed) == KUBEADM.replace("ttl 30", "ttl 5")


def test_only_blocks_of_the_root_zone_are_edited() -> None:
    text = (
        "# . {\n(shared) {\n    errors\n}\nexample.org:53 {\n    file /etc/db\n}\n"
        'dns://.:53 other.org { # "the rest" }\n    import shared\n    log . "{name}"\n}\n'
    )
    led = corefile.redirect(text, ROUTES)
    assert led.index("the rest") < led.index(corefile.BEGIN) < led.index("import shared")
    assert led.count(corefile.BEGIN) == 1
    assert corefile.without(led) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "root zone"),
        ("garbage", "root zone"),
        ("example.org {\n}\n", "root zone"),
        ("example.org {\n    . {\n    }\n}\n", "root zone"),
        (".:53 {\n    errors\n", "braces"),
        (".:53 {\n}\n}\n", "braces"),
        ("}\n", "braces"),
        (". { errors }\n", "after the brace"),
        (". {", "after the brace"),
        (corefile.redirect(KUBEADM, ROUTES).replace(corefile.END, ""), "something else"),
        (corefile.redirect(KUBEADM, ROUTES).replace(corefile.BEGIN, ""), "something else"),
    ],
)
def test_what_cannot_be_edited_is_refused(text: str, says: str) -> None:
    with pytest.raises(corefile.Unreadable, match=says):
        corefile.redirect(text, ROUTES)


WORDS = st.sampled_from([".:53", ".", "{", "}", "\n", " ", "#", '"', "\r", "errors", "a.b", "\\"])


@given(st.lists(WORDS, max_size=40).map("".join) | st.text(max_size=200))
def test_any_text_is_refused_or_given_back_to_the_byte(text: str) -> None:
    try:
        led = corefile.redirect(text, ROUTES)
    except corefile.Unreadable:
        return
    assert corefile.BEGIN in led
    assert corefile.without(led) == text
