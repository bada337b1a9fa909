"""Why a network cannot be exported, or an exported file cannot be used."""


class ExportError(ValueError):
    """The message is one line and names what to do."""
