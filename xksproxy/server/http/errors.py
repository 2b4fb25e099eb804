"""Errors in the bytes that a client sends, at the level of HTTP."""


class BadRequest(Exception):
    """The bytes are not a readable HTTP/1.1 request. The text says what is wrong, and quotes nothing."""


class BodyTooLarge(Exception):
    """The body is above 64 KiB."""


class BodyMalformed(Exception):
    """The chunks of the body are not framed as RFC 9112, section 7.1 requires."""


class ClientGone(Exception):
    """The client closed the connection before the body was complete."""
