"""Which files of a folder are videos."""

import os
from collections import Counter

VIDEO_SUFFIXES = frozenset(
    {
        ".264", ".265", ".3g2", ".3gp", ".apng", ".asf", ".avc", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif",
        ".h261", ".h263", ".h264", ".h265", ".hevc", ".insv", ".ismv", ".ivf", ".lrv", ".m1v", ".m2t", ".m2ts",
        ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
        ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".swf", ".tod",
        ".trp", ".ts", ".vc1", ".vob", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
    }
)  # fmt: skip


def list_videos(folder: str | os.PathLike[str]) -> list[str]:
    """List the video files below a folder, by their suffix; sorted paths that begin with it. See `scan_videos`."""
    return scan_videos(folder)[0]


def scan_videos(folder: str | os.PathLike[str]) -> tuple[list[str], str]:
    """List the video files below a folder, by their suffix, and say what else is there.

    Hidden files and folders are passed over; links are followed, loops of links are not.

    Returns:
        Sorted paths that begin with ``folder``, and how many files are left out and why, in words; the latter is
        empty where there are none.
    """
    videos: list[str] = []
    others: Counter[str] = Counter()
    waiting: list[tuple[str, frozenset[str]]] = [(os.fspath(folder), frozenset())]
    while waiting:
        place, above = waiting.pop()
        real = os.path.realpath(place)
        if real in above:
            continue
        try:
            with os.scandir(place) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError:  # forbidden, gone, or its path is too long
            others["folders that cannot be read"] += 1
            continue
        for entry in entries:
            # of a link to itself, entry.is_dir() raises
            if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
                waiting.append((entry.path, above | {real}))
            elif is_video(entry.name):
                videos.append(entry.path)
            else:
                others[os.path.splitext(entry.name)[1].lower() or "without a suffix"] += 1
    kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
    more = f" and {len(others) - 5} other kinds" if len(others) > 5 else ""
    files = f"{others.total()} file{'s are' if others.total() > 1 else ' is'}"
    return sorted(videos), f"{files} left out, not videos by suffix: {kinds}{more}" if others else ""


def is_video(name: str) -> bool:
    """Tell by its suffix whether a file is a video."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
