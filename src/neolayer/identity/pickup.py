"""Letters put into a folder, as files that a mail server's pick-up or a person can read."""

from __future__ import annotations

import logging
import os
import secrets
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from neolayer.identity.tokens import Letter

_SUBJECTS = {"email_verification": "Verify your address", "password_reset": "Reset your password"}


class PickupFolder:
    """A mailer that writes one `.eml` file a letter, readable by the layer's account only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def post(self, letter: Letter) -> None:
        """Write the letter; a folder that cannot be written is logged, as the face demands."""
        try:
            self._write(letter)
        except OSError as exc:
            logging.getLogger(__name__).error("a letter was not written: %s", exc.strerror)

    def _write(self, letter: Letter) -> None:
        message = EmailMessage()
        message["To"] = letter.to
        message["Subject"] = _SUBJECTS[letter.purpose]
        message["Expires"] = format_datetime(letter.expires_at)
        message.set_content(f"{letter.token}\n")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        name = self._folder / f"{secrets.token_hex(16)}.eml"
        unfinished = name.with_suffix(".part")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(message.as_bytes())
        unfinished.rename(name)
