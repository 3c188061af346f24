"""What must be announced: an event written in the transaction of the change it tells of."""

from neolayer.outbox.announcing import Announcement, announce

__all__ = ["Announcement", "announce"]
