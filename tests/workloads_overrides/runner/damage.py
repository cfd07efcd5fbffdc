"""Ways in which the file of a checkpoint can be damaged."""

KINDS = ('empty', 'truncated', 'flipped', 'directory', 'text')


def damage(path, kind, weight):
    """Damages a checkpoint.

    Args:
        path: Path of the checkpoint.
        kind: One of `KINDS`.
        weight: Bytes of a weight in it.
    """
    content = bytearray(path.read_bytes())
    if kind == 'empty':
        content = b''
    elif kind == 'truncated':
        content = content[: len(content) // 2]
    elif kind == 'flipped':
        # A byte of the weight itself: only the checksum can tell.
        content[content.index(weight)] ^= 1
    elif kind == 'directory':
        # The compression method in the archive's table of contents.
        content[content.index(b'PK\1\2') + 10] = 99
    else:
        content = b'not a checkpoint'
    path.write_bytes(bytes(content))
