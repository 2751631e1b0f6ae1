"""Seconds to load a video: ours with 1 and 2 worker processes beside plain qwen-vl-utils, in the same run.

    python benchmarks/media.py --videos ../shared/data/video/*.mkv --json runs/media.json

Both sides show the same frames at the same size (2 per second, pixel budgets of Qwen2.5-VL, patch 14). Theirs is
`qwen_vl_utils.fetch_video`, called for one video after the other, with the reader that it picks by itself; it decodes
in this process, with up to eight threads, and its frames are float32. Ours are uint8 and come out of other processes,
which have started before; each worker takes an equal share of the cores as threads. Every video is loaded `--copies`
times per round; the sides take turns, and the order of the turns changes with every round. `cached` reads from disk
what was decoded before. A ratio is ours over theirs of the same round, below 1 where ours takes less time.

Without --videos the clips in $VLRFT_SHARED_DATA/video are taken (or ../shared/data/video); videos that qwen-vl-utils
cannot read are left out, and named.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from _results import Row, markdown_table, row, write_results

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig, VideoConfig
from vlrft.data.media import MediaError
from vlrft.data.video import ClipRequest, DecodingPool, media_shape
from vlrft.models.base import Family
from vlrft.types import MediaRef

FACTOR = 28
FPS = 2.0
SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")
SIDES = ("1_worker", "2_workers", "cached")


def plain_loader() -> Callable[[Path], Any]:
    """`fetch_video` with the settings of this benchmark: path -> float32 tensor [T, 3, H, W]."""
    try:
        from qwen_vl_utils.vision_process import fetch_video
    except ImportError:
        sys.exit("qwen-vl-utils is not installed: pip install 'vlrft[video]'")
    logging.getLogger("qwen_vl_utils.vision_process").setLevel(logging.ERROR)
    return lambda path: fetch_video({"video": str(path), "fps": FPS}, image_patch_size=FACTOR // 2)


def request(path: Path) -> ClipRequest:
    """What the plain loader loads, as ours."""
    ref = MediaRef(kind="video", path=str(path))
    shape = media_shape(ref, VideoConfig(fps=FPS))
    assert shape.num_frames is not None, "a video has frames"
    size = family().video_input_size(shape.size, shape.num_frames)
    return ClipRequest(ref=ref, times=shape.timestamps, size=size)


@functools.cache
def family() -> Family:
    """Of Qwen2.5-VL, for its rule of sizes alone."""
    from vlrft.models import load_family

    made: Any = load_family(ModelConfig(tiny=TinyModelConfig(family="qwen2_5_vl")), DataConfig())
    # As published processors leave it; a tiny one has budgets of its own.
    made.processor.video_processor.cap_pixels_per_frame = None
    assert made.factor == FACTOR, "patches of 14 pixels, merged two by two"
    return cast(Family, made)


def readable(paths: Sequence[Path], fetch: Callable[[Path], Any]) -> list[Path]:
    """The videos that both sides load with the same frames and size. Exits when there is none, or where they differ."""
    kept = []
    pool = DecodingPool(VideoConfig(fps=FPS))
    for path in paths:
        try:
            ours = pool.submit(request(path)).result()
            theirs = fetch(path)
        except MediaError as error:
            print(f"left out: {path.name}: {error.reason}", file=sys.stderr)
            continue
        count, _, height, width = theirs.shape
        if ours.frames.shape != (count, height, width, 3):
            sys.exit(f"{path.name}: ours {ours.frames.shape}, theirs {(count, height, width, 3)}: not the same work")
        kept.append(path)
    pool.close()
    if not kept:
        sys.exit("no video that both sides can read; give some with --videos")
    return kept


def load(pool: DecodingPool, paths: Sequence[Path], copies: int) -> float:
    """Seconds until the last of `copies` loads of each video is there, headers included."""
    start = time.perf_counter()
    futures = [pool.submit(request(path)) for _ in range(copies) for path in paths]
    for future in futures:
        future.result()
    return time.perf_counter() - start


def load_plainly(fetch: Callable[[Path], Any], paths: Sequence[Path], copies: int) -> float:
    start = time.perf_counter()
    for path in [path for _ in range(copies) for path in paths]:
        fetch(path)
    return time.perf_counter() - start


def measure(paths: Sequence[Path], fetch: Callable[[Path], Any], *, copies: int, repeats: int) -> list[Row]:
    """Rows per video, and for all of them together ("all"): seconds per load of each side, and the ratios."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pools = {
            "1_worker": DecodingPool(VideoConfig(workers=1)),
            "2_workers": DecodingPool(VideoConfig(workers=2)),
            "cached": DecodingPool(VideoConfig(workers=1, cache_dir=folder)),
        }
        for pool in pools.values():
            load(pool, paths, 2)
        for name, chosen in [*((path.name, [path]) for path in paths), ("all", list(paths))]:
            rows += side_rows(name, rounds(pools, chosen, fetch, copies=copies, repeats=repeats), copies * len(chosen))
        for pool in pools.values():
            pool.close()
    return rows


def rounds(
    pools: dict[str, DecodingPool], paths: Sequence[Path], fetch: Callable[[Path], Any], *, copies: int, repeats: int
) -> list[dict[str, float]]:
    """Seconds of each side, round by round."""
    turns: dict[str, Callable[[], float]] = {
        side: lambda pool=pool: load(pool, paths, copies) for side, pool in pools.items()
    }
    turns["qwen_vl_utils"] = lambda: load_plainly(fetch, paths, copies)
    measured = []
    for number in range(repeats):
        order = list(turns)[number % len(turns) :] + list(turns)[: number % len(turns)]
        measured.append({side: turns[side]() for side in order})
    return measured


def side_rows(workload: str, measured: Sequence[dict[str, float]], loads: int) -> list[Row]:
    """measured: seconds of each side for `loads` loads, round by round."""
    sides = [*SIDES, "qwen_vl_utils"]
    seconds = [row(workload, f"{side}_seconds", [one[side] / loads for one in measured]) for side in sides]
    ratios = [
        row(workload, f"{side}_seconds_ratio", [one[side] / one["qwen_vl_utils"] for one in measured]) for side in SIDES
    ]
    return [*seconds, *ratios]


def table(rows: Sequence[Row]) -> str:
    """Milliseconds per load, and the ratios."""
    value = {(r["workload"], r["metric"]): r["value"] for r in rows}
    lines = []
    for workload in dict.fromkeys(r["workload"] for r in rows):
        times = [f"{1000 * value[workload, f'{side}_seconds']:.1f}" for side in (*SIDES, "qwen_vl_utils")]
        ratios = [f"{value[workload, f'{side}_seconds_ratio']:.2f}" for side in SIDES]
        lines.append([workload, *times, *ratios])
    names = ["1 worker", "2 workers", "cached"]
    return markdown_table(["ms per video", *names, "qwen-vl-utils", *(f"ratio, {name}" for name in names)], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--videos", type=Path, nargs="*", help="files; the real clips by default")
    parser.add_argument("--json", type=Path, help="write the rows and the machine here")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--copies", type=int, default=8, help="loads of each video per round")
    options = parser.parse_args(arguments)
    folder = (
        Path(os.environ.get("VLRFT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "video"
    )
    paths = options.videos or sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    fetch = plain_loader()
    rows = measure(readable(paths, fetch), fetch, copies=options.copies, repeats=options.repeats)
    print(table(rows))
    whole = statistics.median(r["value"] for r in rows if r["workload"] == "all" and r["metric"] == "1_worker_seconds")
    print(f"1 worker: {1 / whole:.1f} videos per second")
    if options.json is not None:
        write_results(options.json, "media", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
