"""How well many workers would be kept busy: an event simulation of `tenfold bench --cluster`, not a measurement.

    python benchmarks/scheduling.py --workers 64 --runs 640

Simulated: a worker takes the next run as soon as it is free, after `--begin` seconds in which a node makes a process
ready and packs the result; runs last `--seconds`, with a spread of `--spread` (a share); the one machine that asked
writes the results one after another, `--write` seconds each. Not simulated: data that is fetched, workers that die,
neighbours. Efficiency is the time spent in runs over workers × the time until the last result is written.
"""

import argparse
import heapq
import random


def simulate(workers: int, seconds: list[float], begin: float, write: float) -> float:
    """Seconds until the last result is written, of runs that last so many `seconds`, taken in order by who is free."""
    free = [0.0] * workers
    ends = []
    for duration in seconds:
        end = heapq.heappop(free) + begin + duration
        heapq.heappush(free, end)
        ends.append(end)
    written = 0.0
    for end in sorted(ends):
        written = max(written, end) + write
    return written


def main() -> None:
    """Print one row of a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--runs", type=int, default=640)
    parser.add_argument("--seconds", type=float, default=48.6)
    parser.add_argument("--spread", type=float, default=0.03)
    parser.add_argument("--begin", type=float, default=1.0)
    parser.add_argument("--write", type=float, default=0.1)
    options = parser.parse_args()
    random.seed(0)
    seconds = [max(0.0, random.gauss(1, options.spread)) * options.seconds for _ in range(options.runs)]
    makespan = simulate(options.workers, seconds, options.begin, options.write)
    share = sum(seconds) / (options.workers * makespan)
    print(f"| {options.workers} workers | {options.runs} runs | {makespan / 60:.1f} min | efficiency {share:.1%} |")


if __name__ == "__main__":
    main()
