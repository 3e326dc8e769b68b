// Bits of floats: the largest of a row, and rows in half precision, rounded to the nearest and of two to the even one.
#pragma once

#include <algorithm>

#include "simd.hpp"

#if VQ_X86 && !defined(_MSC_VER)
#include <cpuid.h>
#endif

namespace vqlabel {

constexpr int32_t kBeyondHalfBits = 0x477FF000;  // 65520, the least that would become infinite as a half

// The bits of the largest |x|: positive floats are in the order of their bits, and what is no number above infinity.
inline int32_t largest_bits(const float* x, size_t count) {
    int32_t most = 0;
    for (size_t i = 0; i < count; ++i) {
        int32_t bits;
        std::memcpy(&bits, x + i, 4);
        most = std::max(most, bits & 0x7FFFFFFF);
    }
    return most;
}

inline uint16_t to_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    const uint32_t normal = (size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13;
    float shifted;  // below 2^-14 halves are evenly spaced: adding 1/2 leaves their number in the low bits
    std::memcpy(&shifted, &size, 4);
    shifted += 0.5f;
    uint32_t small;
    std::memcpy(&small, &shifted, 4);
    return static_cast<uint16_t>(sign | (size < 0x38800000 ? small - 0x3F000000 : normal));
}

#if VQ_X86
VQ_TARGET("avx,f16c") inline void to_halves_f16c(const float* from, size_t count, uint16_t* to) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
    }
    for (; i < count; ++i) to[i] = to_half(from[i]);
}
#endif

inline bool has_f16c() {
#if VQ_X86 && defined(_MSC_VER)
    int leaf1[4];
    __cpuid(leaf1, 1);
    return leaf1[2] & (1 << 29);
#elif VQ_X86
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
#else
    return false;
#endif
}

// Returns whether all are finite as halves; where not, what is written means nothing.
inline bool to_halves(Simd simd, const float* from, size_t count, uint16_t* to) {
    if (largest_bits(from, count) >= kBeyondHalfBits) return false;
#if VQ_X86
    static const bool native = has_f16c();
    if (simd >= Simd::avx2 && native) {
        to_halves_f16c(from, count, to);
        return true;
    }
#endif
    (void)simd;
    for (size_t i = 0; i < count; ++i) to[i] = to_half(from[i]);
    return true;
}

}  // namespace vqlabel
