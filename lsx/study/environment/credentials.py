"""Texts without the credentials that a URI can carry: for displays, files and trackers."""

import re

HIDDEN = "***"

_SCHEME = r"(?<![A-Za-z0-9+.-])[A-Za-z0-9+.-]+://"
# A URI ends at white space, or at the quote that stands right before it: both ' and " can be part of a password.
_URI = re.compile(rf"""(["'`])?({_SCHEME}(?:(?(1)(?!\1))\S)*)""")
# A raw / in a password cuts the authority short, but leaves the colon that stands before the password in it.
_USER = re.compile(r"(://)(?=[^/?#]*[:@]).*@", re.DOTALL)
_SECRET = re.compile(
    r"""(?<=[?&;\#])(
        [^=&;?\#]* (?: passw | passphrase | pwd | secret | token | signature | credential | access[_.-]?key ) [^=&;?\#]*
        | (?: [^=&;?\#]* [_.-] )? (?: pass | pw | sig | o?auth | authorization | jwt )
        | [^=&;?\#]* keys?
        | odbc_connect
    )=[^&]+""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def redacted(text: str) -> str:
    """The text with :data:`HIDDEN` for the credentials in its URIs; all else as it is.

    Hidden are the user info, and the values of query and fragment parameters whose names sound secret. Where a URI
    can be read in several ways, it loses too much rather than too little: with a colon or an ``@`` before its path,
    everything up to its last ``@`` goes, since passwords may contain ``@``, ``/`` and ``?``; a secret parameter goes
    up to the next ``&`` or the URI's end. A redacted text stays as it is.

    >>> redacted("no answer from http://user:pw@host:5000/?token=abc&page=2")
    'no answer from http://***@host:5000/?token=***&page=2'
    """
    return _URI.sub(lambda found: f"{found[1] or ''}{_hide(found[2])}", text)


def _hide(uri: str) -> str:
    """User info first, since a parameter can stand in a password; and last, since a / in a parameter may be gone."""
    for pattern, hidden in ((_USER, rf"\1{HIDDEN}@"), (_SECRET, rf"\1={HIDDEN}"), (_USER, rf"\1{HIDDEN}@")):
        uri = pattern.sub(hidden, uri)
    return uri
