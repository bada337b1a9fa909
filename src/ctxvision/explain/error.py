"""What can go wrong when a run is to be explained."""


class ReportError(ValueError):
    """There is nothing to report on; the message is one line that names the file."""
