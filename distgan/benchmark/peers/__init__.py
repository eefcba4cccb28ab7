"""The yardstick of `distgan bench throughput --peers`: training loops as people write them."""
