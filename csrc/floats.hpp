// Eight float lanes on each path, to write a kernel in once. Lanes are added, multiplied and compared alone and never
// with each other, so that every path computes the same bits; the build forbids fused multiply-adds.
#pragma once

#include "simd.hpp"

namespace vqlabel {

namespace on_scalar {

struct Floats {
    float lane[8];
};

template <class Operation>
Floats each(const Operation& operation) {
    Floats v;
    for (int i = 0; i < 8; ++i) v.lane[i] = operation(i);
    return v;
}

inline Floats broadcast(float x) {
    return each([=](int) { return x; });
}
inline Floats load(const float* p) {
    return each([=](int i) { return p[i]; });
}
inline void store(float* p, const Floats& v) { std::memcpy(p, v.lane, sizeof v.lane); }
inline Floats add(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Floats subtract(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Floats multiply(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
}
// Bit i says that a > b in lane i; false where one is not a number.
inline unsigned greater(const Floats& a, const Floats& b) {
    unsigned bits = 0;
    for (unsigned i = 0; i < 8; ++i) bits |= static_cast<unsigned>(a.lane[i] > b.lane[i]) << i;
    return bits;
}
// Where a < *least: *least = a and *tag = b.
inline void keep_less(const Floats& a, const Floats& b, Floats* least, Floats* tag) {
    for (int i = 0; i < 8; ++i) {
        if (a.lane[i] < least->lane[i]) {
            least->lane[i] = a.lane[i];
            tag->lane[i] = b.lane[i];
        }
    }
}

}  // namespace on_scalar

#if VQ_X86
namespace on_simd128 {

struct Floats {
    __m128 low, high;
};

VQ_TARGET_128 inline Floats broadcast(float x) { return {_mm_set1_ps(x), _mm_set1_ps(x)}; }
VQ_TARGET_128 inline Floats load(const float* p) { return {_mm_loadu_ps(p), _mm_loadu_ps(p + 4)}; }
VQ_TARGET_128 inline void store(float* p, Floats v) {
    _mm_storeu_ps(p, v.low);
    _mm_storeu_ps(p + 4, v.high);
}
VQ_TARGET_128 inline Floats add(Floats a, Floats b) { return {_mm_add_ps(a.low, b.low), _mm_add_ps(a.high, b.high)}; }
VQ_TARGET_128 inline Floats subtract(Floats a, Floats b) {
    return {_mm_sub_ps(a.low, b.low), _mm_sub_ps(a.high, b.high)};
}
VQ_TARGET_128 inline Floats multiply(Floats a, Floats b) {
    return {_mm_mul_ps(a.low, b.low), _mm_mul_ps(a.high, b.high)};
}
VQ_TARGET_128 inline unsigned greater(Floats a, Floats b) {
    const int low = _mm_movemask_ps(_mm_cmpgt_ps(a.low, b.low)), high = _mm_movemask_ps(_mm_cmpgt_ps(a.high, b.high));
    return static_cast<unsigned>(low | high << 4);
}
VQ_TARGET_128 inline __m128 choose(__m128 mask, __m128 yes, __m128 no) {
    return _mm_or_ps(_mm_and_ps(mask, yes), _mm_andnot_ps(mask, no));
}
VQ_TARGET_128 inline void keep_less(Floats a, Floats b, Floats* least, Floats* tag) {
    const __m128 low = _mm_cmplt_ps(a.low, least->low), high = _mm_cmplt_ps(a.high, least->high);
    *least = {choose(low, a.low, least->low), choose(high, a.high, least->high)};
    *tag = {choose(low, b.low, tag->low), choose(high, b.high, tag->high)};
}

}  // namespace on_simd128

namespace on_avx2 {

using Floats = __m256;

VQ_TARGET_AVX2 inline Floats broadcast(float x) { return _mm256_set1_ps(x); }
VQ_TARGET_AVX2 inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
VQ_TARGET_AVX2 inline void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
VQ_TARGET_AVX2 inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
VQ_TARGET_AVX2 inline Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
VQ_TARGET_AVX2 inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
VQ_TARGET_AVX2 inline unsigned greater(Floats a, Floats b) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
}
VQ_TARGET_AVX2 inline void keep_less(Floats a, Floats b, Floats* least, Floats* tag) {
    const __m256 less = _mm256_cmp_ps(a, *least, _CMP_LT_OQ);
    *least = _mm256_blendv_ps(*least, a, less);
    *tag = _mm256_blendv_ps(*tag, b, less);
}

}  // namespace on_avx2

#elif VQ_NEON
namespace on_simd128 {

struct Floats {
    float32x4_t low, high;
};

inline Floats broadcast(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline Floats load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline void store(float* p, Floats v) {
    vst1q_f32(p, v.low);
    vst1q_f32(p + 4, v.high);
}
inline Floats add(Floats a, Floats b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
inline Floats subtract(Floats a, Floats b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
inline Floats multiply(Floats a, Floats b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
inline unsigned greater(Floats a, Floats b) {
    static constexpr uint32_t kBits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint32x4_t low = vandq_u32(vcgtq_f32(a.low, b.low), vld1q_u32(kBits));
    const uint32x4_t high = vandq_u32(vcgtq_f32(a.high, b.high), vld1q_u32(kBits + 4));
    return vaddvq_u32(vorrq_u32(low, high));
}
inline void keep_less(Floats a, Floats b, Floats* least, Floats* tag) {
    const uint32x4_t low = vcltq_f32(a.low, least->low), high = vcltq_f32(a.high, least->high);
    *least = {vbslq_f32(low, a.low, least->low), vbslq_f32(high, a.high, least->high)};
    *tag = {vbslq_f32(low, b.low, tag->low), vbslq_f32(high, b.high, tag->high)};
}

}  // namespace on_simd128
#endif

}  // namespace vqlabel
