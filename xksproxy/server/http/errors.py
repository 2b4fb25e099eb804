"""What can be wrong with what a client sends, before anybody asks what it means."""


class BadRequest(Exception):
    """The bytes are no HTTP/1.1 request that is read here. The text says what is wrong, and quotes nothing."""


class BodyTooLarge(Exception):
    """The body has more bytes than are read."""


class BodyMalformed(Exception):
    """The chunks of the body are not framed as RFC 9112 section 7.1 has it."""


class ClientGone(Exception):
    """The client closed the connection before the body was complete."""
