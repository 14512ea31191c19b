"""JSON as kombu writes and reads it, at once: dates, decimals, UUIDs and bytes are marked as such.

How it works: kombu, and `json` itself, make a new encoder for each value, and look for white space around each
text, which takes longer than to write or read a small one. Here an encoder is made once and kept, and only a text
that is more than a value is looked at again.

What belongs here: writing and reading JSON. What may stand in it, and how long it may be, others say.
"""

from collections.abc import Callable
from json import JSONDecodeError, JSONDecoder
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]  # not in the stubs
from typing import Any

from kombu.utils.json import JSONEncoder, object_hook


def json_encoder(*, allow_nan: bool = True) -> Callable[[Any], str]:
    """Return what gives `kombu.utils.json.dumps(value)`. It meets what contains itself as a RecursionError.

    Args:
        allow_nan: whether NaN and the infinite numbers, which are not JSON, are written as Python does; else they
            are a ValueError.
    """
    encoder = JSONEncoder(allow_nan=allow_nan)
    if c_make_encoder is None:  # an interpreter without the accelerator
        return encoder.encode
    chunks = c_make_encoder(
        None, encoder.default, encode_basestring_ascii, None, ": ", ", ", False, False, allow_nan
    )
    return lambda value: "".join(chunks(value, 0))


def json_decoder(*, marks: bool = False) -> Callable[[str], Any]:
    """Return what gives `json.loads(text)`.

    Args:
        marks: whether what kombu has marked becomes a date, decimal, UUID or bytes again: then it gives
            `kombu.utils.json.loads(text)`.
    """
    plain, marked = JSONDecoder(), JSONDecoder(object_hook=object_hook)

    def decode(text: str) -> Any:
        # kombu looks at every object. There is no mark where its letters are not, plainly or escaped.
        decoder = marked if marks and ("__type__" in text or "\\u" in text) else plain
        try:
            value, end = decoder.raw_decode(text)
        except JSONDecodeError:
            end = -1
        return value if end == len(text) else decoder.decode(text)

    return decode
