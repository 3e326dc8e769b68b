// The bulk of long runs in 256-bit registers. Each function does as many whole steps as fit and returns how many codes
// that was; the 128-bit or scalar path does the rest. The arithmetic is that of bitpack_128.hpp, two groups abreast.
#pragma once

#include "bitpack_128.hpp"

#if VQ_X86

namespace vqlabel {

VQ_TARGET_AVX2 inline __m256i both_halves(const void* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}

VQ_TARGET_AVX2 inline __m256i two_halves(const uint8_t* low, const uint8_t* high) {
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

template <bool kStream>
VQ_TARGET_AVX2 size_t unpack_bulk_avx2(const UnpackPlan<uint8_t>& plan, const uint8_t* src, const uint8_t* end,
                                       uint8_t* dst, size_t count) {
    const __m256i multiplier = both_halves(plan.multiplier);
    const __m128i shift = _mm_cvtsi32_si128(16 - plan.nbits);
    const ptrdiff_t b = plan.nbits;
    // a half holds two groups, of 2 b bytes; the second starts at byte b
    const __m256i even_pair = both_halves(plan.pair);
    const __m256i odd_pair = _mm256_add_epi8(even_pair, _mm256_set1_epi8(static_cast<char>(b)));
    size_t done = 0;
    for (; count - done >= 32 && end - src >= 2 * b + 16; done += 32, src += 4 * b) {
        const __m256i v = two_halves(src, src + 2 * b);
        __m256i even = _mm256_shuffle_epi8(v, even_pair), odd = _mm256_shuffle_epi8(v, odd_pair);
        even = _mm256_srl_epi16(_mm256_mullo_epi16(even, multiplier), shift);
        odd = _mm256_srl_epi16(_mm256_mullo_epi16(odd, multiplier), shift);
        store32<kStream>(dst + done, _mm256_packus_epi16(even, odd));
    }
    return done;
}

template <bool kStream>
VQ_TARGET_AVX2 size_t unpack_bulk_avx2(const UnpackPlan<uint16_t>& plan, const uint8_t* src, const uint8_t* end,
                                       uint16_t* dst, size_t count) {
    const __m256i first = both_halves(plan.first), rest = both_halves(plan.rest);
    const __m256i multiplier = both_halves(plan.multiplier), mask = both_halves(plan.mask);
    const ptrdiff_t b = plan.nbits;
    size_t done = 0;
    for (; count - done >= 16 && end - src >= b + 16; done += 16, src += 2 * b) {
        const __m256i v = two_halves(src, src + b);
        const __m256i high = _mm256_mulhi_epu16(_mm256_shuffle_epi8(v, first), multiplier);
        const __m256i low = _mm256_mullo_epi16(_mm256_shuffle_epi8(v, rest), multiplier);
        store32<kStream>(dst + done, _mm256_and_si256(_mm256_or_si256(high, low), mask));
    }
    return done;
}

template <bool kStream>
VQ_TARGET_AVX2 size_t unpack_bulk_avx2(const UnpackPlan<uint32_t>& plan, const uint8_t* src, const uint8_t* end,
                                       uint32_t* dst, size_t count) {
    const __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(plan.word));
    const __m256i shift = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(plan.shift));
    const __m256i mask = _mm256_set1_epi32((1 << plan.nbits) - 1);
    size_t done = 0;
    for (; count - done >= 8 && end - src >= plan.half + 16; done += 8, src += plan.nbits) {
        const __m256i v = _mm256_shuffle_epi8(two_halves(src, src + plan.half), word);
        store32<kStream>(dst + done, _mm256_and_si256(_mm256_srlv_epi32(v, shift), mask));
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
VQ_TARGET_AVX2 size_t pack_bulk_avx2(const PackPlan& plan, const Code* codes, size_t count, uint8_t* dst, uint8_t* end,
                                     uint32_t* seen) {
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
