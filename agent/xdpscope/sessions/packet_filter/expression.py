# SPDX-License-Identifier: Apache-2.0
"""The text of a filter: its words, which of them make no sense here, and where a mistake is."""

import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_LENGTH = 16384
"""Characters. libpcap takes minutes for longer expressions."""

# Cuts where libpcap's scanner.l cuts. Addresses come first: cut at its colons, an address would
# leave the name of a host, which libpcap would look up.
_TOKEN = re.compile(
    r"""
    (?P<address> (?:[0-9a-f]{1,2}:){5}[0-9a-f]{1,2}
               | (?=[0-9a-f:]*:[0-9a-f]*:)[0-9a-f:]+[0-9a-f.:]* )
    | (?P<word> \\[^\s!()]+ | [\w$][-_.\w]* )
    | (?P<sign> && | \|\| | >= | <= | != | == | << | >> | \S )
    """,
    re.VERBOSE | re.IGNORECASE,
)

_WORDS_PF = "rnr rulenum reason rset ruleset srnr subrulenum action"
_WORDS_WIRELESS = """wlan type subtype dir direction ra ta
    addr1 addr2 addr3 addr4 address1 address2 address3 address4"""
_WORDS_ATM = "lane metac bcc oam oamf4 oamf4ec oamf4sc sc ilmic vpi vci connectmsg metaconnect"
_WORDS_SS7 = "fisu lssu lsu msu hfisu hlssu hmsu sio opc dpc sls hsio hopc hdpc hsls"

REFUSED = {
    "inbound": "a direction, but XDP programs see only packets that arrive",
    "outbound": "a direction, but XDP programs see only packets that arrive",
    "ifindex": "an interface: select it with --interface",
    "protochain": "a loop, which the kernel does not take: name the headers",
    "gateway": "a host's Ethernet address by name, from /etc/ethers: write ether host and not host",
    "radio": "a radio header, which XDP programs do not see",
    **dict.fromkeys(("ifname", "on"), "an interface of a firewall's log: use --interface"),
    **dict.fromkeys(_WORDS_PF.split(), "part of the log of OpenBSD's firewall"),
    **dict.fromkeys(_WORDS_WIRELESS.split(), "part of an IEEE 802.11 header"),
    **dict.fromkeys(_WORDS_ATM.split(), "part of ATM"),
    **dict.fromkeys(_WORDS_SS7.split(), "part of SS7"),
}
"""Words of tcpdump's language that mean nothing for an XDP packet, and what they stand for."""


@dataclass(frozen=True, slots=True)
class Token:
    """One word or sign of an expression, and where it is."""

    text: str
    start: int
    end: int


def tokens(expression: str) -> list[Token]:
    """Return the words and signs of an expression."""
    return [Token(m[0], m.start(), m.end()) for m in _TOKEN.finditer(expression)]


def unusable(expression: str) -> str | None:
    """Return why no filter can be made of a text, whatever it means; or None."""
    if len(expression) > MAX_LENGTH:
        return f"the filter has {len(expression)} characters; {MAX_LENGTH} are allowed"
    strange = next(
        (c for c in expression if not (c.isascii() and (c.isprintable() or c in "\t\r\n"))), ""
    )
    if strange:
        return f"the filter has the character {strange!r}; only printable ASCII is allowed"
    return None


def first_refused(found: list[Token]) -> Token | None:
    """Return the first word that makes no sense here."""
    return next((token for token in found if token.text in REFUSED), None)


def uses_vlan(found: list[Token]) -> bool:
    """Return whether the filter depends on VLAN tags in the packet."""
    return any(token.text == "vlan" for token in found)


def mistake(
    expression: str, found: list[Token], message: str, compiled: Callable[[str], str | None]
) -> tuple[int, int] | None:
    """Return from where to where the mistake is that libpcap's message is about.

    The result is None if all words are right, and only their meaning together is not.

    libpcap does not say. Its parser reports the first mistake and reads one word at a time. So a
    wrong address is put behind the first words: if libpcap complains about it, these are right.

    Args:
        compiled: Returns libpcap's message for a text; None if it is right.
    """
    low, high = 0, len(found)  # the first `low` words are right; the first `high + 1` are not
    while low < high:
        middle = (low + high + 1) // 2
        probe = compiled(f"{expression[: found[middle - 1].end]} {_WRONG}")
        if probe is None or _WRONG in probe:
            low = middle
        else:
            high = middle - 1
    if low == len(found):
        if "syntax error" not in message:
            return None
        return len(expression), len(expression) + 1
    named = [token for token in found[: low + 1] if token.text in _quoted(message)]
    token = named[-1] if named else found[low]
    return token.start, token.end


# The scanner itself refuses this, as soon as the parser asks for the word.
_WRONG = "1::2::"


def _quoted(message: str) -> set[str]:
    """Return what a message quotes: what is between quotation marks, numbers and addresses."""
    quoted = {one or other for one, other in re.findall(r"'([^']+)'|\"([^\"]+)\"", message)}
    return quoted | {word for word in message.split() if re.search(r"[\d:]", word)}


def with_caret(expression: str, start: int, end: int, width: int = 76) -> str:
    """Return the expression, cut to one line, and below it a caret under the mistake."""
    line = re.sub(r"\s", " ", expression) + " "
    first = max(0, start - width * 2 // 3)
    shown, start, end = line[first : first + width], start - first, min(end - first, width)
    if first:
        shown, start, end = f"… {shown}", start + 2, end + 2
    if first + width < len(line):
        shown = f"{shown} …"
    return f"    {shown.rstrip()}\n    {' ' * start}^{'~' * (end - start - 1)}"
