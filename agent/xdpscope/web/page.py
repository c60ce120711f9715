# SPDX-License-Identifier: Apache-2.0
"""Render the page for humans at ``/``. It is complete, and its script only updates it.

The page uses no other files and no other hosts. It contains its style and its script, and allows
them by their hashes. This module escapes all names, and the script copies them as text.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

from xdpscope.log import printable
from xdpscope.program_types.xdp import VERDICTS_SHOWN

__all__ = ["CONTENT_SECURITY_POLICY", "STYLE", "render"]

Shown: TypeAlias = Mapping[str, Any]
"""A program, a flow or a socket, as the API returns it."""

STYLE, _SCRIPT = (
    f"\n{Path(__file__).with_name(name).read_text(encoding='utf-8')}"
    for name in ("page.css", "page.js")
)


def _hash(text: str) -> str:
    """Return the source expression of inline text for a Content-Security-Policy."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(STYLE)}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The policy for the page. Other responses have it too, although they need less."""

# The number of locations of a program that are visible without opening a list.
_LOCATIONS = 3

# The number of CPUs of a program that are visible without opening a list.
_CPUS = 4
# The page shows a hint from this number of packets on, if one CPU handles more than this share.
_ENOUGH_PACKETS, _LONE_SHARE = 10_000, 0.95
_ONE_CPU = (
    "CPU {cpu} handles {share:.1%} of the packets. Give the interface more queues (ethtool -L), and"
    " each queue's interrupt a CPU of its own; or spread the packets with a cpumap."
)

_ELSEWHERE = {"devmap": "in a devmap", "cpumap": "in a cpumap", "tailcall": "in a prog array"}

_REASONS = {
    "no_btf": "It was loaded without BTF, so its entry function cannot be named to the kernel. "
    "Compile it with -g.",
    "not_jited": "The kernel interprets it, which leaves nothing to hook. Set "
    "net.core.bpf_jit_enable to 1 and load it again.",
    "busy": "An extension, or as many tracers as fit, hold its entry function. Where libxdp has "
    "put a component in the place of a dispatcher, the component is counted.",
    "tailcall_only": "Only tail calls reach it, and they go past its entry. Its verdicts count at "
    "the program that calls.",
    "not_attached": "Nothing runs it: no interface, and no entry of a map.",
    "excluded": "The configuration leaves it out.",
    "kernel_refused": "The kernel refused the tracer; the agent's log has its words.",
    "no_verdict": "It replaces a function of another program, and returns no verdict. The other "
    "program is counted.",
    "unsupported_entry": "Its entry function is not like int f(struct xdp_md *), so no tracer can "
    "read the packet. The agent's log says what differs.",
    "offloaded": "A network card runs it, where no tracer can be.",
    "unreadable": "This host does not allow the agent to open it.",
    "vanished": "It went away during the scan.",
}

# Drop reasons of AF_XDP sockets, and their names on the page.
_DROPS = {
    "fill_ring_empty": "Fill ring empty",
    "rx_ring_full": "Rx ring full",
    "rx_dropped": "Rx dropped",
    "rx_invalid": "Rx invalid",
    "tx_invalid": "Tx invalid",
    "tx_ring_empty": "Tx ring empty",
}

_UNREADABLE = (
    '<p role="alert">A scan is busy for long and keeps programs and flows from being read. '
    "Packets are counted meanwhile. The agent's log says where the scan hangs.</p>"
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>xdpscope</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header>
<h1>xdpscope</h1>
<nav aria-label="Endpoints">
<ul>
<li><a href="/metrics">Metrics</a></li>
<li><a href="/api/v1/programs">Programs as JSON</a></li>
<li><a href="/api/v1/flows">Flows as JSON</a></li>
<li><a href="/api/v1/events">Events as JSON</a></li>
<li><a href="/healthz">Health</a></li>
<li><a href="/readyz">Readiness</a></li>
<li><a href="?runbook">Runbook</a></li>
</ul>
</nav>
<div class="live"><p id="state" role="status">as of loading</p>
<button type="button" id="live" hidden>Pause</button></div>
</header>
<main data-at="{at:.3f}">
{content}
</main>
<footer>Packets by the verdict that they left a program with, since counting began; above them,
while the page is live, packets a second.</footer>
<script>{script}</script>
</body>
</html>
"""


def render(
    programs: Sequence[Shown] | None,
    flows: Sequence[Shown],
    status: Mapping[str, object],
    verdict: str | None = None,
    sockets: Sequence[Shown] = (),
    cpus: int = 1,
) -> bytes:
    """Return the page in UTF-8.

    Args:
        programs: The programs. None while they cannot be read.
        flows: The flows with ``verdict``.
        status: The facts at the top of the page, by name.
        verdict: The verdict of ``flows``. None: any verdict.
        sockets: The AF_XDP sockets.
        cpus: The number of CPUs of the host.
    """
    if programs is None:
        return _page(_facts(status), _UNREADABLE)
    traced = [program for program in programs if program["traceable"]]
    rest = [program for program in programs if not program["traceable"]]
    return _page(
        _facts(status),
        _programs(traced, any_at_all=bool(programs)),
        _chains(programs),
        _latencies(programs),
        _cpus(traced, cpus) if cpus > 1 else "",
        _untraced(rest),
        _sockets(sockets),
        _flows(flows, verdict),
    )


def _page(*content: str) -> bytes:
    return _PAGE.format(
        style=STYLE,
        script=_SCRIPT,
        at=time.monotonic(),
        content="\n".join(filter(None, content)),
    ).encode()


def _facts(status: Mapping[str, object]) -> str:
    rows = "\n".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
        for name, value in status.items()
    )
    return f'<dl class="facts">\n{rows}\n</dl>'


def _programs(programs: Sequence[Shown], *, any_at_all: bool) -> str:
    if not programs:
        what = "No program is traced." if any_at_all else "No XDP program is loaded on this host."
        return f'<h2 id="programs">Programs</h2>\n<p>{what}</p>'
    heads = [
        *(_head(name) for name in ("Program", "Role", "Attached")),
        _head("Packets a second", "chart"),
        *(_head(_key(verdict), "number") for verdict in VERDICTS_SHOWN),
    ]
    rows = []
    for program in programs:
        totals = _totals(program)
        cells = [
            _program(program),
            _cell(_role(program), "role", "Role"),
            _cell(_locations(program), "where most", "Attached"),
            '<td role="cell" class="chart" data-own></td>',
            *(_number(totals[verdict], verdict) for verdict in VERDICTS_SHOWN),
        ]
        packets = escape(json.dumps({verdict: totals[verdict] for verdict in VERDICTS_SHOWN}))
        rows.append(
            f'<tr role="row" id="p{_text(program["id"])}" data-packets="{packets}">'
            f"{''.join(cells)}</tr>"
        )
    return _table("programs", "Programs", heads, rows, cards=True)


def _latencies(programs: Sequence[Shown]) -> str:
    rows = []
    for program in programs:
        latency = program.get("latency")
        if latency is None:
            continue
        quantiles = (
            _cell(_duration(latency[f"{name}_seconds"]), "number", name) for name in ("p50", "p99")
        )
        rows.append(
            f'<tr role="row" id="t{_text(program["id"])}">'
            + _program(program)
            + "".join(quantiles)
            + _cell(f"{latency['packets']:,}", "number", "Packets measured")
            + "</tr>"
        )
    if not rows:
        return ""
    title = "Time in programs <small>estimates, over all packets measured</small>"
    heads = [_head("Program"), *(_head(n, "number") for n in ("p50", "p99", "Packets measured"))]
    return _table("latency", title, heads, rows, cards=True)


def _duration(seconds: float | None) -> str:
    """Return a time with three digits, in a unit from ns to s."""
    if seconds is None:
        return "-"
    for unit, size in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _cpus(programs: Sequence[Shown], cpus: int) -> str:
    rows = []
    for program in programs:
        packets = _by_cpu(program)
        if not packets:
            continue
        total = packets.total()
        shares = [
            f'<li>{cpu} <span class="soft">{packets[cpu]:,}, {packets[cpu] / total:.0%}</span></li>'
            for cpu in sorted(packets)
        ]
        listed = f"<ul>{''.join(shares)}</ul>"
        if len(shares) > _CPUS:
            listed = f"<details><summary>{len(shares)} of {cpus} CPUs</summary>{listed}</details>"
        busiest, most = packets.most_common(1)[0]
        hint = _ONE_CPU.format(cpu=busiest, share=most / total) if _is_lone(most, total) else ""
        rows.append(
            f'<tr role="row" id="u{_text(program["id"])}">'
            + _program(program)
            + _cell(listed, "where most", "CPU")
            + _cell(hint, "wide")
            + "</tr>"
        )
    if not rows:
        return ""
    title = "CPUs <small>packets by CPU, since the tracer was attached</small>"
    heads = [_head(name) for name in ("Program", "CPU", "Hint")]
    return _table("cpus", title, heads, rows, cards=True)


def _by_cpu(program: Shown) -> Counter[int]:
    packets: Counter[int] = Counter()
    for count in program.get("counts", ()):
        for each in count.get("cpus", ()):
            packets[each["cpu"]] += sum(each["packets"].values())
    return packets


def _is_lone(most: int, total: int) -> bool:
    """Return whether the busiest CPU handles nearly all packets, if there are enough packets."""
    return total >= _ENOUGH_PACKETS and most > _LONE_SHARE * total


def _untraced(programs: Sequence[Shown]) -> str:
    if not programs:
        return ""
    rows = []
    for program in programs:
        reason = str(program["reason"])
        why = _REASONS.get(reason, "")
        if program["called_by"]:
            callers = ", ".join(
                f'<a href="#p{_text(caller)}">{_text(caller)}</a>'
                for caller in program["called_by"]
            )
            why = f"{why} Called from {callers}."
        rows.append(
            f'<tr role="row" id="p{_text(program["id"])}">'
            + _program(program)
            + _cell(_role(program), "role", "Role")
            + _cell(_locations(program), "where most", "Attached")
            + _cell(f"<code>{_text(reason)}</code>", "wide", "Reason")
            + _cell(why, "wide")
            + "</tr>"
        )
    heads = [_head(name) for name in ("Program", "Role", "Attached", "Reason", "What that means")]
    return _table("untraced", "Not traced", heads, rows, cards=True)


def _chains(programs: Sequence[Shown]) -> str:
    links = sorted(
        (location["dispatcher_id"], location["position"] is None, location["position"] or 0, n)
        for n, program in enumerate(programs)
        for location in program["chain"]
    )
    if not links:
        return ""
    chains: dict[int, list[str]] = {}
    for dispatcher, unknown, position, n in links:
        program, totals = programs[n], _totals(programs[n])
        counted = (
            ", ".join(f"{v} {totals[v]:,}" for v in VERDICTS_SHOWN if totals[v]) or "no packets"
        )
        chains.setdefault(dispatcher, []).append(
            f'<li><a class="name" href="#p{_text(program["id"])}">{_text(program["program"])}</a>'
            f'<span class="soft">{"" if unknown else f"{position}: "}{counted}</span></li>'
        )
    at = {program["id"]: program for program in programs}
    items = []
    for dispatcher, components in chains.items():
        found = at.get(dispatcher)
        name = _text(found["program"]) if found else "dispatcher"
        where = ", ".join(map(_location, found["attachments"])) if found else ""
        items.append(
            f'<li id="c{_text(dispatcher)}"><span class="name">{name}</span> '
            f'<span class="soft">{_text(dispatcher)} {where}</span>\n'
            f'<ol class="chain">{"".join(components)}</ol></li>'
        )
    return (
        '<section aria-labelledby="chains">\n<h2 id="chains">Chains <small>of dispatchers, in the '
        f'order of calling</small></h2>\n<ul class="chains">\n{"".join(items)}\n</ul>\n</section>'
    )


def _sockets(sockets: Sequence[Shown]) -> str:
    if not sockets:
        return ""
    rows = []
    for each in sockets:
        owner = f"{each['comm']} ({each['pid']})" if each["pid"] is not None else "not known"
        dropped = each["dropped"]
        rows.append(
            f'<tr role="row" id="s{_text(each["socket"])}">'
            f'<th role="rowheader" scope="row">{_location(each)}</th>'
            + _cell(_text(each["queue"]), "number", "Queue")
            + _cell(f'<span class="name">{_text(owner)}</span>', "most", "Owner")
            + "".join(_cell(f"{dropped[r]:,}", "number", label) for r, label in _DROPS.items())
            + "</tr>"
        )
    heads = [
        _head("Interface"),
        _head("Queue", "number"),
        _head("Owner"),
        *(_head(label, "number") for label in _DROPS.values()),
    ]
    title = "AF_XDP sockets <small>and what they dropped since they were opened</small>"
    return _table("sockets", title, heads, rows, cards=True)


def _flows(flows: Sequence[Shown], verdict: str | None) -> str:
    links = "\n".join(
        f'<li><a href="/{"?verdict=" * bool(each)}{each or ""}#flows"'
        f"{' aria-current=true' * (each == verdict)}>{each or 'all'}</a></li>"
        for each in (None, *VERDICTS_SHOWN)
    )
    choice = f'<nav aria-label="Verdict of flows">\n<ul>\n{links}\n</ul>\n</nav>'
    rows = [
        '<tr role="row">'
        + _cell(f"{flow['rate']:,.1f}", "number", "Packets a second")
        + _cell(f"{flow['packets']:,}", "number", "Packets")
        + _cell(f"{flow['bytes']:,}", "number", "Bytes")
        + _cell(_key(flow["verdict"]), "", "Verdict")
        + _cell(_text(flow["protocol"]), "most", "Protocol")
        + _cell(_peer(flow, "source"), "wide", "Source")
        + _cell(_peer(flow, "destination"), "wide", "Destination")
        + _cell(f'<span class="name">{_text(flow["program"])}</span>', "most", "Program")
        + _cell(_location(flow), "", "Interface")
        + "</tr>"
        for flow in flows
    ]
    heads = [
        *(_head(name, "number") for name in ("Packets a second", "Packets", "Bytes")),
        *map(_head, ("Verdict", "Protocol", "Source", "Destination", "Program", "Interface")),
    ]
    if not rows:
        return f'<h2 id="flows">Flows</h2>\n{choice}\n<p>None is held.</p>'
    return _table(
        "flows", "Flows <small>the busiest recently</small>", heads, rows, before=choice, cards=True
    )


def _table(
    id: str,
    title: str,
    heads: Iterable[str],
    rows: Iterable[str],
    *,
    before: str = "",
    cards: bool = False,
) -> str:
    # A region that scrolls must be reachable by keyboard, and therefore needs a name. The roles are
    # explicit, because elements lose their own roles where the style shows rows as cards.
    return (
        f'<h2 id="{id}">{title}</h2>\n{before}'
        f'<div class="scroll" role="region" aria-labelledby="{id}" tabindex="0">\n'
        f'<table role="table" aria-labelledby="{id}"{" class=cards" if cards else ""}>\n'
        f'<thead role="rowgroup"><tr role="row">{"".join(heads)}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{chr(10).join(rows)}\n</tbody>\n</table>\n</div>'
    )


def _head(content: str, kind: str = "") -> str:
    return f'<th role="columnheader" scope="col" class="{kind}">{content}</th>'


def _cell(content: str, kind: str = "", label: str = "") -> str:
    labelled = f' data-label="{label}"' if label else ""
    return f'<td role="cell" class="{kind}"{labelled}>{content}</td>'


def _number(total: int, verdict: str) -> str:
    zero = "" if total else " zero"
    content = f'<b data-own></b><data value="{total}">{total:,}</data>'
    return _cell(content, f"number {verdict}{zero}", verdict)


def _key(verdict: str) -> str:
    return f'<span class="key {_text(verdict)}"><span>{_text(verdict)}</span></span>'


def _program(program: Shown) -> str:
    return (
        f'<th role="rowheader" scope="row"><span class="name">{_text(program["program"])}</span> '
        f'<span class="soft">{_text(program["id"])}</span></th>'
    )


def _role(program: Shown) -> str:
    locations = [
        f"{'' if at['position'] is None else at['position']} of "
        f'<a href="#c{_text(at["dispatcher_id"])}">{_text(at["dispatcher_id"])}</a>'
        for at in program["chain"]
    ]
    return " ".join([_text(program["role"]), f'<span class="soft">{", ".join(locations)}</span>'])


def _locations(program: Shown) -> str:
    locations = [f"<li>{_location(at)}</li>" for at in program["attachments"]]
    listed = f"<ul>{''.join(locations)}</ul>"
    if not locations:
        return f'<span class="soft">{_ELSEWHERE.get(program["role"], "nowhere")}</span>'
    if len(locations) <= _LOCATIONS:
        return listed
    return f"<details><summary>{len(locations)} interfaces</summary>{listed}</details>"


def _location(at: Shown) -> str:
    netns = "" if at["netns"] == "host" else f"{at['netns']}/"
    how = f"via {at['via']}" if at.get("via") else at.get("mode", "")
    soft = f' <span class="soft">{_text(how)}</span>' if how else ""
    return f"{_text(netns)}{_text(at['interface'])}{soft}"


def _peer(flow: Shown, which: str) -> str:
    address, port = flow[which], flow[f"{which}_port"]
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return f'<span class="name">{_text(shown)}</span>'


def _totals(program: Shown) -> Counter[str]:
    totals: Counter[str] = Counter()
    for count in program.get("counts", ()):
        totals.update(count["packets"])
    return totals


def _text(value: object) -> str:
    """Return any value as escaped text for the page."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return escape(printable(str(value)))
