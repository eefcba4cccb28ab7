"""Predicted time of an all-reduce: NCCL's cost model for GPUs, a measured ring for CPUs.

The constants are those with which NCCL selects its algorithm, in `src/graph/tuning.cc` (revision b6475625)
and `src/graph/topo.h` (revision 069a3d4f) of github.com/NVIDIA/nccl. Time = latency + bytes / bandwidth, of the best
of ring, tree and NVLS, each in the protocols LL, LL128 and Simple. Not modelled: tree's correction by size, CollNet,
and the limits of a channel but LL's. Microseconds and GB/s (1e9) here, as there; seconds for the callers.
"""

from collections.abc import Callable, Iterator
from math import log2
from typing import NamedTuple

from distgan.errors import UserError

# (bytes, nodes, GPUs or processes of each) -> predicted seconds
AllReduce = Callable[[int, int, int], float]

_LL, _LL128, _SIMPLE = range(3)


class _Hops(NamedTuple):
    """Microseconds of a hop in LL, LL128 and Simple (`hwLat`)."""

    ring: tuple[float, float, float]
    tree: tuple[float, float, float]


_NVLINK = _Hops((0.6, 1.9, 3.4), (0.6, 1.25, 28.0))
_PCI = _Hops((1.0, 2.5, 5.7), (1.0, 1.9, 28.0))
_NET = _Hops((2.7, 4.0, 14.0), (5.0, 8.5, 28.0))
_BASE = _Hops((6.6, 14.0, 8.4), (6.8, 14.0, 0.0))  # `baseLat`
_NVLS, _NVLS_NET = 23.0, 14.0
# Overhead per hop of a node in a ring over several nodes, greater in Simple (`getNetOverhead`, Intel).
_POST = (1.0, 1.0, 3.0)
# A ring of several nodes reaches a plateau in Simple.
_PLATEAU = 1.4
# The most that LL reaches, by the number of nodes: one (of Ampere and newer), two, more (`llMaxBws`, AMD).
_LL_MOST = (87.7, 22.5, 19.0)


class Fabric(NamedTuple):
    """Interconnect of GPUs within a node and between nodes. GB/s of a node in one direction; 0: not between nodes."""

    inside: _Hops
    inside_gbs: float
    per_node_gbs: float = 0.0
    per_gpu_gbs: float = 0.0
    has_nvlink: bool = True
    source: str = ""


_NVLINK_GBS = 18 * 20.6
_PCIE_GBS = 24.0 * 5 / 6
FABRICS = {
    "nvlink": Fabric(_NVLINK, _NVLINK_GBS, source="NVLink 4: 18 links (H100 and H200) of 20.6 GB/s (SM90_NVLINK_BW)"),
    "pcie": Fabric(
        _PCI, _PCIE_GBS, has_nvlink=False, source="PCIe 4 x16: twice PCI_BW's 12 GB/s, of which Intel's processors "
        "need a fifth more (INTEL_P2P_OVERHEAD)",
    ),
    "ib": Fabric(
        _NVLINK, _NVLINK_GBS, per_gpu_gbs=50.0, source="InfiniBand NDR: an adapter of 400 Gbit/s for each GPU (DGX "
        "H100 user guide); NVLink 4 within a node",
    ),
    "ethernet": Fabric(
        _PCI, _PCIE_GBS, per_node_gbs=12.0, has_nvlink=False, source="Ethernet: one adapter of 100 Gbit/s for each "
        "node (NET_BW, 12 GB/s), with NCCL's hops of a network, of which TCP's are longer; PCIe 4 within a node",
    ),
}  # fmt: skip


def check_nodes(name: str, nodes: int) -> None:
    """Raise UserError for several nodes with an interconnect that works within a node only."""
    fabric = FABRICS[name]
    if nodes > 1 and not (fabric.per_gpu_gbs or fabric.per_node_gbs):
        raise UserError(
            f"--fabric: connects the GPUs of one machine only, with --nodes {nodes} ({name}). Expected: ib, ethernet",
            code="conflicting-settings",
        )


def nccl_model(name: str) -> AllReduce:
    """Return NCCL's estimate for an interconnect."""
    fabric = FABRICS[name]

    def all_reduce(size: int, nodes: int, per_node: int) -> float:
        if nodes * per_node == 1:
            return 0.0
        ways = _algorithm_costs(fabric, nodes, per_node)
        return min(latency + size / 1e3 / bandwidth for latency, bandwidth in ways) / 1e6

    return all_reduce


def _algorithm_costs(fabric: Fabric, nodes: int, per_node: int) -> Iterator[tuple[float, float]]:
    """Yield latency (microseconds) and bandwidth (GB/s of the message) of each algorithm and protocol."""
    size = nodes * per_node
    steps = 2 * (size - 1)
    between = 2 * nodes if nodes > 1 else 0
    bus = fabric.inside_gbs if per_node > 1 else float("inf")
    if nodes > 1:
        bus = min(bus, fabric.per_node_gbs or fabric.per_gpu_gbs * per_node)
    ll_most = _LL_MOST[min(nodes, 3) - 1]
    ring_bus = (min(ll_most, bus / 4), bus * (0.92 if per_node > 1 else 0.7), bus)
    tree_bus = tuple(0.92 * bus * part for part in (1 / 3.8, 7 / 9 if nodes == 1 else 120 / 128, 1.0))
    for protocol in (_LL, _LL128, _SIMPLE) if fabric.has_nvlink else (_LL, _SIMPLE):
        inside = max(fabric.inside.ring[protocol], _POST[protocol] if nodes > 1 else 0.0)
        # A ring over nodes has a hop between them for each, so with one GPU a node it has no other.
        hops = max(0, steps - between) * inside + min(steps, between) * _NET.ring[protocol]
        latency = _BASE.ring[protocol] + hops
        plateau = _PLATEAU if protocol == _SIMPLE and nodes > 1 else 1.0
        yield latency * plateau, ring_bus[protocol] * size / steps
        hops = 2 * ((per_node - 1) * fabric.inside.tree[protocol] + int(log2(nodes)) * _NET.tree[protocol])
        bandwidth = min(ll_most, tree_bus[protocol]) if protocol == _LL else tree_bus[protocol]
        yield _BASE.tree[protocol] + hops, bandwidth / 2
    if fabric.has_nvlink and per_node > 1:
        # Over more than two nodes each has to send twice.
        yield _NVLS + 2 * int(log2(nodes)) * _NVLS_NET, (bus if nodes <= 2 else bus / 2) * 5 / 6


def ring_model(world_size: int, tiny_s: float, size: int, seconds: float, fabric: str) -> AllReduce:
    """Return the model of gloo's ring: 2 (W - 1) hops, and 2 (W - 1) / W of the bytes, as measured on one CPU.

    `tiny_s` and `seconds`: an all-reduce of one number and of `size` bytes over `world_size` processes. Between nodes
    each hop adds the latency of the network, whose bandwidth all processes of a node share.
    """
    hop_s = tiny_s / (2 * (world_size - 1))
    # A large one can't be faster than a small one but by chance.
    gbs = 2 * (world_size - 1) / world_size * size / max(seconds - tiny_s, seconds / 100) / 1e9
    nominal = FABRICS[fabric]

    def all_reduce(size: int, nodes: int, per_node: int) -> float:
        total = nodes * per_node
        if total == 1:
            return 0.0
        steps, bandwidth = 2 * (total - 1), gbs
        network_s = 0.0
        if nodes > 1:
            network_s = 2 * nodes * _NET.ring[_LL] / 1e6
            bandwidth = min(gbs, nominal.per_node_gbs or nominal.per_gpu_gbs * per_node)
        return steps * hop_s + network_s + steps / total * size / (bandwidth * 1e9)

    return all_reduce
