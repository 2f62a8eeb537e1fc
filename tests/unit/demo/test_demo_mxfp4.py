import pytest

torch = pytest.importorskip("torch")

from serve_app.demo import mxfp4  # noqa: E402


def test_unpacking_gives_what_rounding_gave() -> None:
    weight = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
    rounded = mxfp4.round_trip(weight)
    blocks, scales = mxfp4.pack(weight)
    assert blocks.shape == (3, 5, 2, 16)
    assert scales.shape == (3, 5, 2)
    assert blocks.dtype == scales.dtype == torch.uint8
    assert torch.equal(mxfp4.unpack(blocks, scales), rounded)


def test_representable_values_survive_exactly() -> None:
    values = torch.tensor(mxfp4.MAGNITUDES + tuple(-m for m in mxfp4.MAGNITUDES)).repeat(2)
    weight = torch.stack([values * 2.0**exponent for exponent in (-9, 0, 5)])
    assert torch.equal(mxfp4.unpack(*mxfp4.pack(weight)), weight)


def test_packing_twice_changes_nothing() -> None:
    weight = mxfp4.round_trip(torch.randn(4, 96, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(mxfp4.round_trip(weight), weight)


def test_zeros_stay_zero() -> None:
    assert torch.equal(mxfp4.unpack(*mxfp4.pack(torch.zeros(2, 32))), torch.zeros(2, 32))
