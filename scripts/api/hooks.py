"""What scripts/test-api.sh adds to schemathesis: every request comes from an address of its own, and bodies of CBOR are any bytes.

The server counts failed credentials for each pair of address and account, and answers 429 after ten of them. From one address the check
that no operation ignores its credentials would see little but that.
"""

import itertools

import schemathesis

addresses = itertools.count(1)


@schemathesis.hook
def before_call(context, case, kwargs):
    number = next(addresses)
    case.headers["X-Forwarded-For"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


@schemathesis.serializer("application/cbor")
def cbor(context, value):
    data = getattr(value, "data", None)
    return data if isinstance(data, bytes) else str(value).encode()
