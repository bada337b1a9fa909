"""Which files of a folder are videos."""

import os

from ctxvision.data.files import Listing, list_below, suffix_in

VIDEO_SUFFIXES = frozenset(
    {
        ".264", ".265", ".3g2", ".3gp", ".apng", ".asf", ".avc", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif",
        ".h261", ".h263", ".h264", ".h265", ".hevc", ".insv", ".ismv", ".ivf", ".lrv", ".m1v", ".m2t", ".m2ts",
        ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
        ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".swf", ".tod",
        ".trp", ".ts", ".vc1", ".vob", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
    }
)  # fmt: skip


is_video = suffix_in(VIDEO_SUFFIXES)


def list_videos(folder: str | os.PathLike[str]) -> list[str]:
    """List the video files below a folder, by their suffix; sorted paths that begin with it."""
    return list_video_files(folder).files


def list_video_files(folder: str | os.PathLike[str]) -> Listing:
    """List the video files below a folder as `list_videos` does, and count what else is there."""
    return list_below(folder, is_video)
