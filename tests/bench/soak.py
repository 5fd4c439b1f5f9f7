"""A long run at a steady rate: whether memory, the write-ahead log, files and threads stay what they are.

Run by ``make bench-soak``; 30 minutes unless told otherwise. Registers so many tasks every second, each of which is
polled once and delivered, and prints a sample every ten seconds and the verdicts at the end.
"""

import argparse
import time

from figures import task_ids
from gatewayprocess import GatewayProcess, start_gateway
from harness import BESIDE, pinned, start_sides
from load import register_batches

SAMPLE_S = 10
SETTLED_S = 300
MAX_GROWTH_MB, MAX_WAL_MB = 10, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--per-second", type=int, default=1000)
    options = parser.parse_args()
    pinned(BESIDE)()
    with start_sides() as sides, start_gateway(sides.upstream_url) as gateway:
        samples = soak(gateway, sides.receiver_url + "/hook", options.minutes * 60, options.per_second)
        arrived = sides.count()
    settled = [sample for sample in samples if sample["at"] >= min(SETTLED_S, samples[-1]["at"] / 2)]
    growth = max(sample["resident"] for sample in settled) - settled[0]["resident"]
    wal = max(sample["wal"] for sample in samples)
    print(f"{arrived.distinct:,} webhooks, {arrived.webhooks - arrived.distinct} repeated")
    print(f"resident after the first minutes: +{growth:.1f} MB (at most {MAX_GROWTH_MB})")
    print(f"write-ahead log: at most {wal:.1f} MB (at most {MAX_WAL_MB})")
    for what in ("files", "threads"):
        print(f"{what}: {min(s[what] for s in settled)} to {max(s[what] for s in settled)} (constant)")


def soak(gateway: GatewayProcess, receiver: str, seconds: float, per_second: int) -> list[dict[str, float]]:
    """Keep the rate; return the samples."""
    samples = []
    started = time.monotonic()
    sent, next_sample_s = 0, 0.0
    print(f"{'s':>6} {'lives/s':>8} {'CPU':>6} {'MB':>7} {'WAL MB':>7} {'files':>6} {'threads':>8}")
    while (elapsed := time.monotonic() - started) < seconds:
        due = int(elapsed * per_second) - sent
        if due >= per_second // 10:
            register_batches(gateway.url, task_ids("soak", due), receiver, connections=1)
            sent += due
        if elapsed >= next_sample_s:
            sample = {
                "at": elapsed,
                "resident": gateway.resident_mb(),
                "wal": gateway.wal_mb(),
                "files": gateway.files(),
                "threads": gateway.threads(),
                "cpu": gateway.cpu_s(),
            }
            before = samples[-1] if samples else sample | {"at": 0.0}
            cpu = (sample["cpu"] - before["cpu"]) / max(elapsed - before["at"], 1)
            print(
                f"{elapsed:>6.0f} {sent / max(elapsed, 1):>8.0f} {cpu:>6.0%} {sample['resident']:>7.1f} "
                f"{sample['wal']:>7.1f} {sample['files']:>6} {sample['threads']:>8}",
                flush=True,
            )
            samples.append(sample)
            next_sample_s += SAMPLE_S
        time.sleep(0.01)
    return samples


if __name__ == "__main__":
    main()
