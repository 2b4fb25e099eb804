"""One signed request on a connection that a benchmark has made."""

import asyncio
import time

from xksproxy.client.target import Target
from xksproxy.sigv4.sign import signed_headers


async def post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target, path: str, body: bytes
) -> bytes:
    """POST a body, signed now, and return the head of the answer once its body has been read too.

    Raises:
        asyncio.IncompleteReadError, OSError: the proxy closed the connection.
    """
    headers = signed_headers(
        target.credential, target.region, host=target.authority, path=path, body=body, now=time.time()
    )
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
    return head
