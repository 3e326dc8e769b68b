// Packing one code at a time, for every width and every processor.
//
// A run is `count` codes of `nbits` bits, least significant bit first, ending in the byte that holds its last bit
// (FORMAT.md, "Codes"). Every path packs and unpacks runs; a row is one run, and rows without padding are one long run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vqlabel {

constexpr int kMaxBits = 24;

constexpr size_t packed_bytes(size_t count, int nbits) { return (count * static_cast<size_t>(nbits) + 7) / 8; }

// The eight bytes at p, fewer where the buffer ends: bytes at `end` and beyond count as zero and are not read.
inline uint64_t load_window(const uint8_t* p, const uint8_t* end) {
    uint64_t window = 0;
    const size_t left = static_cast<size_t>(end - p);
    std::memcpy(&window, p, left < 8 ? left : 8);
    return window;
}

// Reads [src, end) at most; the codes must lie inside it. Writes dst[0, count).
template <class Code>
void unpack_run_scalar(const uint8_t* src, const uint8_t* end, Code* dst, size_t count, int nbits) {
    const uint64_t mask = (uint64_t{1} << nbits) - 1;
    size_t bit = 0;
    size_t i = 0;
    for (; i < count && end - (src + bit / 8) >= 8; ++i, bit += static_cast<size_t>(nbits)) {
        uint64_t window;
        std::memcpy(&window, src + bit / 8, 8);
        dst[i] = static_cast<Code>((window >> (bit % 8)) & mask);
    }
    for (; i < count; ++i, bit += static_cast<size_t>(nbits)) {
        dst[i] = static_cast<Code>((load_window(src + bit / 8, end) >> (bit % 8)) & mask);
    }
}

// Writes exactly packed_bytes(count, nbits) bytes, the unused bits zero. Returns all codes or-ed together: a bit at or
// above nbits in it says that a code was out of range and that the bytes are worthless.
template <class Code>
uint32_t pack_run_scalar(const Code* codes, size_t count, uint8_t* dst, int nbits) {
    uint64_t window = 0;
    int filled = 0;
    uint32_t seen = 0;
    for (size_t i = 0; i < count; ++i) {
        seen |= codes[i];
        window |= static_cast<uint64_t>(codes[i]) << filled;
        filled += nbits;
        if (filled >= 32) {
            std::memcpy(dst, &window, 4);
            dst += 4;
            window >>= 32;
            filled -= 32;
        }
    }
    for (; filled > 0; filled -= 8, window >>= 8) *dst++ = static_cast<uint8_t>(window);
    return seen;
}

}  // namespace vqlabel
