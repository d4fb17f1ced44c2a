"""Hides passwords, tokens and signatures in text that is shown, stored or published.

Addresses of data may hold them: `https://user:password@host/...`, or a signed address such as
`...?X-Amz-Signature=...`. They are stored nowhere, so a resumed run asks for them again.
"""

import re

from segacc.errors import OptionError

HIDDEN = "***"
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but line breaks and tabs, and those that change the direction of text."""
_USER = re.compile(r"(?<=://)[^\s/?#'\"]*@")
_QUERY = re.compile(
    r"(?i)([?&;](?:sig|key|auth|code|pwd|[\w.-]*(?:signature|token|secret|password|credential|"
    r"api_?key|access_?key)[\w.-]*)=)[^\s&;#,'\"]+"
)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def without_secrets(text: str) -> str:
    """Return a text with `***` in place of user and password, and of secret values, in its URLs.

    Tokens of the Hub are hidden anywhere.
    """
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(lambda found: found[1] + HIDDEN, text)
    return _TOKEN.sub(HIDDEN, text)


def shown(text: str) -> str:
    """Return a text without secrets; control characters, which act on a terminal, are escaped."""
    text = without_secrets(text)
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def refuse_hidden(value: object, where: str) -> None:
    """Refuse a setting that was stored without its secrets.

    Raises:
        OptionError: it contains `***`.
    """
    if HIDDEN in str(value):
        raise OptionError(
            f"{where}: {HIDDEN} stands for a password or a signature, which segacc does not store. "
            "Give this setting again, in full."
        )
