"""Texts: what a recording says, as the chunks of one transcript: a chunk that was sent is never taken back."""

from edgekit.runtime.events import Text


class Texts:
    """Joins the texts of utterances with spaces, as ``Model.transcribe`` does.

    ``committed``: partials keep their stable part whatever comes (``partials="committed"``), so it is sent at once.
    Otherwise it may be withdrawn, and a text is sent when it is final.
    """

    def __init__(self, *, committed: bool) -> None:
        self.sent = ""  # all chunks
        self.text = ""  # of the utterances that are over
        self._committed = committed

    def take(self, event: Text) -> str:
        """Return what is new, to be sent as a chunk; empty where nothing is."""
        if not event.final and not self._committed:
            return ""
        said = event.text if event.final else event.text[: event.stable]
        so_far = f"{self.text} {said}" if self.text and said else self.text + said
        if event.final:
            self.text = so_far
        if not so_far.startswith(self.sent):  # what was kept for good is gone; the transcript has it right
            return ""
        new = so_far[len(self.sent) :]
        self.sent += new
        return new
