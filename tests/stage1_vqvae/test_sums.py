"""Sums of each code's vectors, in one order."""

import pytest
import torch

from stage1_vqvae.bottlenecks.sums import sums_by_code


def vectors_and_codes(n, d, k):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator), torch.randint(0, k, (n,), generator=generator)


def test_they_are_those_of_a_loop():
    vectors, codes = vectors_and_codes(50, 3, 7)
    expected = torch.zeros(9, 3)
    for vector, code in zip(vectors, codes.tolist()):
        expected[code] += vector
    assert torch.equal(sums_by_code(vectors, codes, 9), expected)
    assert torch.equal(torch.zeros(9, 3).index_put_((codes,), vectors, accumulate=True), expected)  # a GPU's way


def test_elsewhere_than_on_a_cpu_nothing_adds_in_the_order_of_threads():
    """`index_add_` does on CUDA; the device "meta" takes CUDA's way."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    for device, way in (("cpu", "aten::index_add_"), ("meta", "aten::index_put_")):
        vectors, codes = (x.to(device) for x in vectors_and_codes(50, 3, 7))
        seen = []
        with Calls():
            assert sums_by_code(vectors, codes, 9).shape == (9, 3)
        assert [name for name in seen if "index" in name] == [way]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_they_are_the_same_bits_at_every_run():
    vectors, codes = (x.cuda() for x in vectors_and_codes(100_000, 64, 16))
    first = sums_by_code(vectors, codes, 16)
    assert all(torch.equal(sums_by_code(vectors, codes, 16), first) for _ in range(10))
    torch.testing.assert_close(first.cpu(), sums_by_code(vectors.cpu(), codes.cpu(), 16), rtol=1e-4, atol=1e-2)
