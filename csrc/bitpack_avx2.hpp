// The bulk of long runs in 256-bit registers. Each function does as many whole steps as fit and returns how many codes
// that was; the 128-bit or scalar path does the rest. The arithmetic is that of bitpack_128.hpp, two groups abreast.
#pragma once

#include "bitpack_128.hpp"

#if VQ_X86

#define VQ_TARGET_AVX2 VQ_TARGET("avx2")

namespace vqlabel {

VQ_TARGET_AVX2 inline __m256i both_halves(const void* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}

VQ_TARGET_AVX2 inline __m256i two_groups(const uint8_t* low, const uint8_t* high) {
    const __m256i v = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low)));
    return _mm256_inserti128_si256(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
}

// A streaming store goes past the caches: right when the output is larger than they are, wrong when it is used at once.
template <bool kStream>
VQ_TARGET_AVX2 inline void store32(void* p, __m256i v) {
    if constexpr (kStream) {
        _mm256_stream_si256(static_cast<__m256i*>(p), v);
    } else {
        _mm256_storeu_si256(static_cast<__m256i*>(p), v);
    }
}

struct WidePlan {
    __m256i first, rest, multiplier, mask;
};

VQ_TARGET_AVX2 inline WidePlan widen_plan(const UnpackPlan& plan) {
    return {both_halves(plan.first), both_halves(plan.rest), both_halves(plan.multiplier), both_halves(plan.mask)};
}

VQ_TARGET_AVX2 inline __m256i unpack_two_groups(const WidePlan& wide, __m256i v) {
    const __m256i high = _mm256_mulhi_epu16(_mm256_shuffle_epi8(v, wide.first), wide.multiplier);
    const __m256i low = _mm256_mullo_epi16(_mm256_shuffle_epi8(v, wide.rest), wide.multiplier);
    return _mm256_and_si256(_mm256_or_si256(high, low), wide.mask);
}

template <bool kStream>
VQ_TARGET_AVX2 size_t unpack_bulk_avx2(const UnpackPlan& plan, const uint8_t* src, const uint8_t* end, uint16_t* dst,
                                       size_t count) {
    const WidePlan wide = widen_plan(plan);
    const ptrdiff_t b = plan.nbits;
    size_t done = 0;
    for (; count - done >= 16 && end - src >= b + 16; done += 16, src += 2 * b) {
        store32<kStream>(dst + done, unpack_two_groups(wide, two_groups(src, src + b)));
    }
    return done;
}

template <bool kStream>
VQ_TARGET_AVX2 size_t unpack_bulk_avx2(const UnpackPlan& plan, const uint8_t* src, const uint8_t* end, uint8_t* dst,
                                       size_t count) {
    const WidePlan wide = widen_plan(plan);
    const ptrdiff_t b = plan.nbits;
    size_t done = 0;
    for (; count - done >= 32 && end - src >= 3 * b + 16; done += 32, src += 4 * b) {
        // packus interleaves the halves, so the groups are loaded in the order that it puts right again
        const __m256i even = unpack_two_groups(wide, two_groups(src, src + 2 * b));
        const __m256i odd = unpack_two_groups(wide, two_groups(src + b, src + 3 * b));
        store32<kStream>(dst + done, _mm256_packus_epi16(even, odd));
    }
    return done;
}

// 17 to 24 bits: code j and the up to 7 bits before it fit 32 bits, so one shuffle and one shift per lane do.
VQ_TARGET_AVX2 inline size_t unpack_bulk_avx2(int nbits, const uint8_t* src, const uint8_t* end, uint32_t* dst,
                                              size_t count) {
    const ptrdiff_t half = 4 * nbits / 8;  // the byte in which the fifth code starts
    uint8_t bytes[32];
    uint32_t shifts[8];
    for (int j = 0; j < 8; ++j) {
        const int bit = j * nbits - (j < 4 ? 0 : 8 * static_cast<int>(half));
        for (int i = 0; i < 4; ++i) bytes[4 * j + i] = static_cast<uint8_t>(bit / 8 + i);
        shifts[j] = static_cast<uint32_t>(bit % 8);
    }
    const __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
    const __m256i shift = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(shifts));
    const __m256i mask = _mm256_set1_epi32((1 << nbits) - 1);
    size_t done = 0;
    for (; count - done >= 8 && end - src >= half + 16; done += 8, src += nbits) {
        const __m256i v = _mm256_shuffle_epi8(two_groups(src, src + half), index);
        store32<false>(dst + done, _mm256_and_si256(_mm256_srlv_epi32(v, shift), mask));
    }
    return done;
}

VQ_TARGET_AVX2 inline __m256i load_two_groups(const uint16_t* codes) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
}

VQ_TARGET_AVX2 inline __m256i load_two_groups(const uint8_t* codes) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}

// Or-s the codes that it packs into *seen. May write anything in [dst, end).
template <class Code>
VQ_TARGET_AVX2 size_t pack_bulk_avx2(const PackPlan& plan, const Code* codes, size_t count, uint8_t* dst,
                                     uint8_t* end, uint32_t* seen) {
    const int b = plan.nbits;
    const __m256i low16 = _mm256_set1_epi32(0xffff), low32 = _mm256_set1_epi64x(0xffffffff);
    const __m256i low_bytes = both_halves(plan.low), high_bytes = both_halves(plan.high);
    const __m128i shift16 = _mm_cvtsi32_si128(16 - b), shift32 = _mm_cvtsi32_si128(32 - 2 * b);
    const __m128i half_byte = _mm_cvtsi32_si128(4 * (b & 1));
    __m256i all = _mm256_setzero_si256();
    size_t done = 0;
    for (; count - done >= 16 && end - dst >= b + 16; done += 16, dst += 2 * b) {
        prefetch(codes + done, kPackPrefetchBytes);
        __m256i v = load_two_groups(codes + done);
        all = _mm256_or_si256(all, v);
        v = _mm256_or_si256(_mm256_and_si256(v, low16), _mm256_srl_epi32(_mm256_andnot_si256(low16, v), shift16));
        v = _mm256_or_si256(_mm256_and_si256(v, low32), _mm256_srl_epi64(_mm256_andnot_si256(low32, v), shift32));
        const __m256i high = _mm256_shuffle_epi8(_mm256_sll_epi64(v, half_byte), high_bytes);
        v = _mm256_or_si256(_mm256_shuffle_epi8(v, low_bytes), high);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dst), _mm256_castsi256_si128(v));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + b), _mm256_extracti128_si256(v, 1));
    }
    uint16_t lanes[16];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), all);
    for (uint16_t lane : lanes) *seen |= lane;
    return done;
}

}  // namespace vqlabel

#endif
