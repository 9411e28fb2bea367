"""Read (and rewrite) a .tflite: its ops and tensors, by TensorFlow's own schema.

Nothing here runs the model: what a file holds is read from the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

BINARY_CONV = "LceBconv2d"
_DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 6: "?", 7: "<i2", 9: "i1", 10: "<f8"}


@dataclass(frozen=True)
class Tensor:
    """One tensor: `data` is its constant content, or None for an activation."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    data: np.ndarray | None

    @property
    def nbytes(self) -> int:
        return 0 if self.data is None else self.data.nbytes


@dataclass(frozen=True)
class Op:
    """One operator: its place in the file, its name, its inputs (None where absent), outputs.

    `options` are those of an op of LCE, such as its strides.
    """

    index: int
    name: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def constants(self) -> list[Tensor]:
        return [t for t in self.inputs if t is not None and t.data is not None]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.constants)


class TFLiteFile:
    """The first subgraph of a .tflite.

    # Arguments
        content: the file's bytes.

    # Attributes
        model: TensorFlow's object form (`ModelT`). Change it and call `to_bytes` for a new file.
    """

    def __init__(self, content: bytes):
        from tensorflow.lite.python import schema_py_generated as schema

        self._schema = schema
        root = schema.Model.GetRootAsModel(content, 0)
        self.model = schema.ModelT.InitFromObj(root)
        self.graph = self.model.subgraphs[0]

    @cached_property
    def ops(self) -> list[Op]:
        return list(self._read_ops())

    def tensor(self, index: int) -> Tensor:
        tensor = self.graph.tensors[index]
        dtype = np.dtype(_DTYPES.get(tensor.type, "u1"))
        shape = tuple(int(n) for n in tensor.shape) if tensor.shape is not None else ()
        raw = self.model.buffers[tensor.buffer].data
        data = None
        if raw is not None and len(raw):
            data = np.asarray(raw, np.uint8).view(dtype).reshape(shape)
        return Tensor(index, tensor.name.decode(), shape, dtype, data)

    @property
    def inputs(self) -> list[Tensor]:
        return [self.tensor(i) for i in self.graph.inputs]

    @property
    def outputs(self) -> list[Tensor]:
        return [self.tensor(i) for i in self.graph.outputs]

    def to_bytes(self) -> bytes:
        """The file again, with constants aligned to 16 bytes as the runtime wants them."""
        import flatbuffers

        builder = flatbuffers.Builder(1 << 16)
        buffers, self.model.buffers = (
            self.model.buffers,
            [_AlignedBuffer(b) for b in self.model.buffers],
        )
        try:
            builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        finally:
            self.model.buffers = buffers
        return bytes(builder.Output())

    def _read_ops(self) -> Iterator[Op]:
        builtin = {
            code: name
            for name, code in vars(self._schema.BuiltinOperator).items()
            if not name.startswith("_")
        }
        for index, op in enumerate(self.graph.operators):
            code = self.model.operatorCodes[op.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            name = code.customCode.decode() if code.customCode else builtin[number]
            yield Op(
                index,
                name,
                tuple(None if i < 0 else self.tensor(i) for i in op.inputs),
                tuple(self.tensor(i) for i in op.outputs),
                _options(op.customOptions) if name.startswith("Lce") else {},
            )


def _options(content: Any) -> dict[str, Any]:
    if content is None or not len(content):
        return {}
    from flatbuffers import flexbuffers

    return dict(flexbuffers.Loads(np.asarray(content, np.uint8).tobytes()))


class _AlignedBuffer:
    """Packs a buffer at an address divisible by 16; TensorFlow's Python packer does not."""

    def __init__(self, buffer: Any):
        self.buffer = buffer

    def Pack(self, builder: Any) -> int:
        from tensorflow.lite.python import schema_py_generated as schema

        data = self.buffer.data
        vector = None
        if data is not None and len(data):
            content = np.asarray(data, np.uint8).tobytes()
            builder.StartVector(1, len(content), 16)
            builder.head = builder.Head() - len(content)
            builder.Bytes[builder.Head() : builder.Head() + len(content)] = content
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def unpack_bits(words: np.ndarray, channels: int | None = None) -> np.ndarray:
    """LCE's packed int32 words (last axis) as int8 ±1: bit k of word j is channel 32 j + k.

    A set bit is -1. Channels beyond `channels` are padding; None gives them too.
    """
    bits = np.unpackbits(
        np.ascontiguousarray(words).astype("<i4").view(np.uint8), axis=-1, bitorder="little"
    )
    return (1 - 2 * bits.astype(np.int8))[..., :channels]


def pack_bits(signs: np.ndarray) -> np.ndarray:
    """The inverse of `unpack_bits`: ±1 along the last axis to int32 words, padded with +1."""
    padding = -signs.shape[-1] % 32
    bits = np.pad(signs < 0, [*[(0, 0)] * (signs.ndim - 1), (0, padding)])
    return np.packbits(bits, axis=-1, bitorder="little").view("<i4")
