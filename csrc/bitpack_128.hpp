// Packing eight codes at a time in 128-bit registers: SSSE3 and NEON. Widths 1 to 16.
//
// Eight codes fill exactly nbits bytes, so every group of eight starts at a byte and no bit is carried between groups:
// one loop serves every width, and only the tables below differ.
#pragma once

#include "bitpack_scalar.hpp"
#include "simd.hpp"

namespace vqlabel {

// Many stores to few lines hide the codes ahead from the hardware prefetcher: 3x at 4 bits in memory, nothing in cache.
constexpr size_t kPackPrefetchBytes = 2048;

constexpr uint8_t kZeroByte = 0x80;  // a shuffle index that gives zero

// How one group is unpacked. Code j starts s bits into byte k: 8 k + s = j * nbits.
template <class Code>
struct UnpackPlan;

// 1 to 8 bits: a code lies in bytes k and k + 1. A multiplication moves it to the top of its lane, a shift back down.
template <>
struct UnpackPlan<uint8_t> {
    int nbits;
    uint8_t pair[16];        // lane j = bytes k and k + 1
    uint16_t multiplier[8];  // 2^(16 - nbits - s)

    explicit UnpackPlan(int bits) : nbits(bits) {
        for (int j = 0; j < 8; ++j) {
            const int k = j * bits / 8, s = j * bits % 8;
            pair[2 * j] = static_cast<uint8_t>(k);
            pair[2 * j + 1] = static_cast<uint8_t>(k + 1);
            multiplier[j] = static_cast<uint16_t>(1 << (16 - bits - s));
        }
    }
};

// 9 to 16 bits: a code may reach into byte k + 2, one more than a lane holds; so byte k and the rest come separately.
template <>
struct UnpackPlan<uint16_t> {
    int nbits;
    uint8_t first[16];       // lane j = byte k, in the upper half of the lane
    uint8_t rest[16];        // lane j = bytes k + 1 and k + 2
    uint16_t multiplier[8];  // 2^(8 - s): (first * m) >> 16 is byte k >> s, rest * m is the rest << (8 - s)
    uint16_t mask[8];

    explicit UnpackPlan(int bits) : nbits(bits) {
        for (int j = 0; j < 8; ++j) {
            const int k = j * bits / 8, s = j * bits % 8;
            first[2 * j] = kZeroByte;
            first[2 * j + 1] = static_cast<uint8_t>(k);
            rest[2 * j] = static_cast<uint8_t>(k + 1 < 16 ? k + 1 : kZeroByte);
            rest[2 * j + 1] = static_cast<uint8_t>(k + 2 < 16 ? k + 2 : kZeroByte);
            multiplier[j] = static_cast<uint16_t>(1 << (8 - s));
            mask[j] = static_cast<uint16_t>((1 << bits) - 1);
        }
    }
};

// 17 to 24 bits: four codes to a register, the second four from byte `half` on; code and s together fit 32 bits.
template <>
struct UnpackPlan<uint32_t> {
    int nbits;
    int half;
    uint8_t word[32];   // lane j = bytes k to k + 3
    uint32_t shift[8];  // s

    explicit UnpackPlan(int bits) : nbits(bits), half(4 * bits / 8) {
        for (int j = 0; j < 8; ++j) {
            const int bit = j * bits - (j < 4 ? 0 : 8 * half);
            for (int i = 0; i < 4; ++i) word[4 * j + i] = static_cast<uint8_t>(bit / 8 + i);
            shift[j] = static_cast<uint32_t>(bit % 8);
        }
    }
};

// Codes merge in pairs, pairs in fours (both by shifts), and the two fours of a register by bytes.
struct PackPlan {
    int nbits;
    uint8_t low[16];   // the first four codes stay where they are
    uint8_t high[16];  // the last four start at byte nbits / 2, after a shift by half a byte if nbits is odd

    explicit PackPlan(int bits) : nbits(bits) {
        for (int i = 0; i < 16; ++i) {
            const int from = i - bits / 2;
            low[i] = i < 8 ? static_cast<uint8_t>(i) : kZeroByte;
            high[i] = from >= 0 && from < 8 ? static_cast<uint8_t>(8 + from) : kZeroByte;
        }
    }
};

// At most 16 bytes from a buffer on the stack, without a call for so few.
inline void copy_short(uint8_t* dst, const uint8_t* src, size_t bytes) {
    if (bytes & 16) {
        std::memcpy(dst, src, 16);
        return;
    }
    if (bytes & 8) {
        std::memcpy(dst, src, 8);
        dst += 8;
        src += 8;
    }
    if (bytes & 4) {
        std::memcpy(dst, src, 4);
        dst += 4;
        src += 4;
    }
    if (bytes & 2) {
        std::memcpy(dst, src, 2);
        dst += 2;
        src += 2;
    }
    if (bytes & 1) *dst = *src;
}

#if VQ_X86 || VQ_NEON

VQ_TARGET_128 inline void store_codes(uint16_t* dst, Lanes v) { store16(dst, v); }
VQ_TARGET_128 inline void store_codes(uint8_t* dst, Lanes v) { store8(dst, narrow(v)); }
VQ_TARGET_128 inline Lanes load_codes(const uint16_t* src) { return load16(src); }
VQ_TARGET_128 inline Lanes load_codes(const uint8_t* src) { return widen(load8(src)); }

// Eight codes from the first nbits bytes of v.
VQ_TARGET_128 inline Lanes unpack_group(const UnpackPlan<uint8_t>& plan, Lanes v) {
    return shift_right16(multiply_low(shuffle(v, load16(plan.pair)), load16(plan.multiplier)), 16 - plan.nbits);
}

VQ_TARGET_128 inline Lanes unpack_group(const UnpackPlan<uint16_t>& plan, Lanes v) {
    const Lanes multiplier = load16(plan.multiplier);
    const Lanes first = multiply_high(shuffle(v, load16(plan.first)), multiplier);
    const Lanes rest = multiply_low(shuffle(v, load16(plan.rest)), multiplier);
    return bit_and(bit_or(first, rest), load16(plan.mask));
}

// Same contract as unpack_run_scalar.
template <class Code>
VQ_TARGET_128 void unpack_run_128(const UnpackPlan<Code>& plan, const uint8_t* src, const uint8_t* end, Code* dst,
                                  size_t count) {
    while (count > 0) {
        Lanes v;
        if (end - src >= 16) {
            v = load16(src);
        } else {
            uint8_t padded[16] = {};
            std::memcpy(padded, src, static_cast<size_t>(end - src));
            v = load16(padded);
        }
        v = unpack_group(plan, v);
        if (count < 8) {
            Code group[8];
            store_codes(group, v);
            copy_short(reinterpret_cast<uint8_t*>(dst), reinterpret_cast<const uint8_t*>(group), count * sizeof(Code));
            return;
        }
        store_codes(dst, v);
        src += plan.nbits;
        dst += 8;
        count -= 8;
    }
}

// Eight u16 codes to plan.nbits bytes, zeros behind them.
VQ_TARGET_128 inline Lanes pack_group(const PackPlan& plan, Lanes v) {
    alignas(16) static constexpr uint32_t kLow16[4] = {0xffff, 0xffff, 0xffff, 0xffff};
    alignas(16) static constexpr uint64_t kLow32[2] = {0xffffffff, 0xffffffff};
    const Lanes low16 = load16(kLow16), low32 = load16(kLow32);
    const int b = plan.nbits;
    const Lanes low = bit_and(v, low16);
    v = bit_or(low, shift_right32(bit_and_not(v, low16), 16 - b));
    const Lanes pair = bit_and(v, low32);
    v = bit_or(pair, shift_right64(bit_and_not(v, low32), 32 - 2 * b));
    const Lanes high = shift_left64(v, 4 * (b & 1));
    return bit_or(shuffle(v, load16(plan.low)), shuffle(high, load16(plan.high)));
}

// Same contract as pack_run_scalar. May write, and write again, anything in [dst, end) while it runs.
template <class Code>
VQ_TARGET_128 uint32_t pack_run_128(const PackPlan& plan, const Code* codes, size_t count, uint8_t* dst, uint8_t* end) {
    Lanes seen = zero();
    while (count >= 8 && end - dst >= 16) {
        prefetch(codes, kPackPrefetchBytes);
        const Lanes v = load_codes(codes);
        seen = bit_or(seen, v);
        store16(dst, pack_group(plan, v));
        codes += 8;
        count -= 8;
        dst += plan.nbits;
    }
    uint16_t lanes[8];
    while (count > 0) {
        const size_t n = count < 8 ? count : 8;
        Code group[8] = {};
        std::memcpy(group, codes, n * sizeof(Code));
        const Lanes v = load_codes(group);
        seen = bit_or(seen, v);
        uint8_t packed[16];
        store16(packed, pack_group(plan, v));
        copy_short(dst, packed, packed_bytes(n, plan.nbits));
        codes += n;
        count -= n;
        dst += plan.nbits;
    }
    store16(lanes, seen);
    uint32_t all = 0;
    for (uint16_t lane : lanes) all |= lane;
    return all;
}

#endif

}  // namespace vqlabel
