"""A network that the machine has no room for is a message while it grows, not a killed process."""

import pytest

from tutelage.config.compose import compose
from tutelage.engine import networks
from tutelage.errors import UserError

SIZES = {"input_shape": (1, 8, 8), "output_size": 10}
WEIGHTS = 4 * (
    64 * 512 + 2 * 512 * 512 + 512 * 10
)  # bytes of three layers and the head; norms and biases are 3 percent more


def build(monkeypatch, room, *words):
    monkeypatch.setattr(networks, "room_bytes", lambda: room)
    config = compose(["model=fcn", "model.depth=3", "model.width=512", *words])
    return networks.build_network("model", config, SIZES)


def test_a_network_larger_than_memory_is_refused_before_it_is_whole(monkeypatch):
    with pytest.raises(UserError, match="model: its weights and their gradients need more than"):
        build(monkeypatch, 1.9 * WEIGHTS)
    with pytest.raises(UserError, match="make it smaller"):
        build(monkeypatch, 4 * 64 * 512)  # the second layer is one too many


def test_what_fits_is_built_and_a_frozen_network_needs_no_gradients(monkeypatch):
    assert build(monkeypatch, 2.2 * WEIGHTS) is not None
    assert build(monkeypatch, None) is not None
    monkeypatch.setattr(networks, "room_bytes", lambda: 1.2 * WEIGHTS)
    config = compose(["method=guidance", "model@guide=fcn", "guide.depth=3", "guide.width=512"])
    assert networks.build_network("guide", config, SIZES) is not None
