# SPDX-License-Identifier: Apache-2.0
"""Which outcomes a driver reports, from the kernel's sources (6.1).

docs/outcomes.md has the same table for people. The rest of the kernel reports all other outcomes,
whatever the driver.
"""

from typing import Final

from xdpscope.discovery.model import Mode
from xdpscope.probes.outcomes.tracepoints import Outcome

# Names as ``ethtool -i`` shows them. Each driver raises xdp_exception for a packet that its program
# aborts.

REPORT_TX: Final = frozenset(
    {
        "atlantic", "bnxt_en", "funeth", "i40e", "ice", "idpf", "igb", "igc", "ixgbe", "ixgbevf",
        "mlx4_en", "mlx5_core", "nfp", "qede", "sfc", "sfc_siena", "veth", "vif", "virtio_net",
    }
)  # fmt: skip
"""Drivers that report each packet that XDP_TX could not transmit: by xdp_exception, or by
xdp_bulk_tx (veth, and those on libeth)."""

SILENT_ON_TX: Final = frozenset(
    {
        "cpsw", "cpsw-switch", "ena", "fsl_dpaa_eth", "fsl_dpaa2_eth", "fsl_enetc", "fsl_enetc_vf",
        "hv_netvsc", "mana", "mtk_soc_eth", "mvneta", "mvpp2", "netsec", "nicvf", "rvu-nicpf",
        "rvu-nicvf", "st_gmac", "tun",
    }
)  # fmt: skip
"""Drivers that do not report all packets that XDP_TX could not transmit."""


def known(driver: str) -> bool:
    """Return whether there is an entry for this driver."""
    return driver in REPORT_TX or driver in SILENT_ON_TX


def supported(mode: Mode, driver: str) -> frozenset[Outcome]:
    """Return the outcomes that are reported for an interface's programs in a mode.

    A driver that is not known is taken to report nothing by itself: a failure that nobody reports
    must not look like success.
    """
    if mode is Mode.OFFLOAD:
        return frozenset()  # the card runs the program, no tracepoint is raised
    found = {Outcome.REDIRECT_ERROR, Outcome.CPUMAP}  # net/core/filter.c, kernel/bpf/cpumap.c
    if mode is Mode.GENERIC:
        # net/core/dev.c. generic_xdp_tx() sends packets, redirected ones too: it reports a queue
        # that is stopped, but never what a driver drops.
        return frozenset(found | {Outcome.EXCEPTION})
    found.add(Outcome.DEVMAP_TRANSMIT)  # kernel/bpf/devmap.c
    if known(driver):
        found.add(Outcome.EXCEPTION)
    if driver in REPORT_TX:
        found.add(Outcome.TX)
    return frozenset(found)
