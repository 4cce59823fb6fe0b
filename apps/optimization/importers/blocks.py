"""Block traces in the form of Mooncake: a call per line, its prompt as ids of blocks instead of text.

Source: the traces of Mooncake (kvcache-ai, FAST '25): `timestamp` in milliseconds from the start, `input_length` and
`output_length` in tokens, `hash_ids` one per block of 512 tokens; equal ids are equal prefixes up to that block.
"""

from apps.optimization.importers import Importer, fields_at, importer
from apps.optimization.texts import Texts

TELLING = {"timestamp", "input_length", "output_length", "hash_ids"}
_PLACES: dict[str, tuple[str, ...]] = {
    "started_at": ("timestamp",),
    "input_tokens": ("input_length",),
    "output_tokens": ("output_length",),
    "model": ("model",),
    "session": ("session_id", "chat_id"),
    "blocks": ("hash_ids",),
}


@importer(order=25)
def block_trace(texts: Texts) -> Importer | None:
    """Takes a table with lengths and block ids."""
    if not set(texts.columns) >= TELLING:
        return None
    columns, sql = fields_at(texts, _PLACES)
    return Importer(
        kind="block_trace",
        documented="inclusive",
        columns=columns,
        sql=sql,
        notes=("Block trace: hash_ids stand for the blocks of the prompt; there is no text.",),
    )
