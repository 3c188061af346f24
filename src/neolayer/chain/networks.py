"""Networks that need no configuration: their names and chain ids."""

from __future__ import annotations

from neolayer.chain.model import Network

PRESETS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("ethereum", 1),
        Network("sepolia", 11155111, is_testnet=True),
        Network("holesky", 17000, is_testnet=True),
        Network("hoodi", 560048, is_testnet=True),
        # Neo X and Neo N3 reach finality with each block (dBFT); depth 1 says so. Neo X seals its
        # headers in a form that could not be checked against real blocks.
        Network("neox", 47763, finality_depth=1, standard_header=False),
        Network("neox-testnet", 12227332, is_testnet=True, finality_depth=1, standard_header=False),
        Network("neo-n3", 860833102, kind="neo-n3", finality_depth=1),
        Network("neo-n3-testnet", 894710606, kind="neo-n3", is_testnet=True, finality_depth=1),
    )
}
SYNTHETIC = Network("synthetic", 1337, is_testnet=True, finality_depth=16)
