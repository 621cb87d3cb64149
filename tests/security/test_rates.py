"""Rates: a bucket for each caller, in a table of bounded size."""

from http_gateway.token_buckets import TokenBuckets


def test_one_caller_empties_no_bucket_but_its_own() -> None:
    """And is told how long to wait."""
    buckets = TokenBuckets(per_s=10, burst=5)
    waits = [buckets.take("noisy", 0.0) for _ in range(8)]
    assert waits[:5] == [0.0] * 5 and all(wait > 0 for wait in waits[5:])
    assert buckets.take("quiet", 0.0) == 0.0
    assert buckets.take("noisy", 0.1) == 0.0


def test_a_million_addresses_cost_no_more_than_the_table_holds() -> None:
    """The bucket that was used longest ago goes."""
    buckets = TokenBuckets(per_s=10, burst=5, buckets_max=1000)
    for number in range(100_000):
        buckets.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", number / 1e6)
    assert len(buckets) == 1000
