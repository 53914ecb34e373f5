"""CRC-32C (Castagnoli, RFC 3720 appendix B.4) of megabytes, in numpy alone.

A CRC is linear over GF(2), so a long message is cut into equal lanes whose CRCs are computed side
by side, a word of every lane per step; then neighbours are joined: crc(a + b) = advance(crc(a),
len(b)) ^ crc(b), where advance appends zeros. Leading zeros do not change a CRC that starts from 0,
so the message is padded in front.
"""

from __future__ import annotations

import numpy as np

POLYNOMIAL = np.uint32(0x82F63B78)  # bits reversed
LANE_WORDS = 64  # of 4 bytes
ALL_ONES = 0xFFFFFFFF


def _byte_table() -> np.ndarray:
    """The register after a zero byte is appended, for registers 0 .. 255."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, POLYNOMIAL, np.uint32(0))
    return table


def _append_zeros(registers: np.ndarray, num_bytes: int) -> np.ndarray:
    for _ in range(num_bytes):
        registers = (registers >> 8) ^ TABLE[registers & 0xFF]
    return registers


TABLE = _byte_table()
BYTE_STEP = TABLE.tolist()
HALF_WORD = np.arange(2**16, dtype=np.uint32)
LOW_STEP, HIGH_STEP = _append_zeros(HALF_WORD, 4), _append_zeros(HALF_WORD << 16, 4)
# The images (32,) of the single bits under "append one lane of zeros".
LANE_ADVANCE = _append_zeros(np.uint32(1) << np.arange(32, dtype=np.uint32), 4 * LANE_WORDS)


def crc32c(data: bytes | memoryview) -> int:
    """The CRC-32C of `data`, as an unsigned 32-bit integer."""
    size = len(data)
    if size <= 4 * LANE_WORDS:
        register = ALL_ONES
        for byte in bytes(data):
            register = (register >> 8) ^ BYTE_STEP[(register ^ byte) & 0xFF]
        return register ^ ALL_ONES
    lanes = 1 << (-(-size // (4 * LANE_WORDS)) - 1).bit_length()  # a power of two: joined in pairs
    padded = np.zeros(lanes * 4 * LANE_WORDS, np.uint8)
    padded[-size:] = np.frombuffer(data, np.uint8)
    padded[-size:][:4] ^= 0xFF  # the same as a register that starts with all ones
    words = np.ascontiguousarray(padded.view("<u4").reshape(lanes, LANE_WORDS).T)
    registers = np.zeros(lanes, np.uint32)
    for word in words:
        registers = registers ^ word
        registers = LOW_STEP[registers & 0xFFFF] ^ HIGH_STEP[registers >> 16]
    advance = LANE_ADVANCE
    while len(registers) > 1:
        registers = _apply(advance, registers[0::2]) ^ registers[1::2]
        advance = _apply(advance, advance)
    return int(registers[0]) ^ ALL_ONES


def _apply(matrix: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """The linear map with these images of single bits, (32,), applied to each register (M,)."""
    result = np.zeros_like(registers)
    for bit in range(32):
        result ^= np.where((registers >> bit) & 1, matrix[bit], np.uint32(0))
    return result
