"""Hides passwords, tokens and signatures in text that is stored or published.

Addresses of data may hold them: `https://user:password@host/...`, or a signed address such as
`...?X-Amz-Signature=...`. config.yaml, from which a run is resumed, has to keep them; nothing else
does.
"""

import re

HIDDEN = "***"
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
