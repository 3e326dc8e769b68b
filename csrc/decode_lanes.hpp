// What decoding needs of each path besides floats.hpp: 16-bit numbers multiplied and summed in pairs, and a few steps
// of exp. Everything is exact or rounded once, so that every path computes the same bits.
#pragma once

#include "floats.hpp"

namespace vqlabel {

constexpr float kMagic = 12582912;  // 1.5 * 2^23: added to a smaller number it leaves the nearest whole one below

namespace on_scalar {

constexpr size_t kLanes = 8, kVectors = 2;  // of a Floats; Floats in the columns of a product tile
constexpr size_t kAbreast = 4;              // Floats of a row that go through exp together, so that none waits
constexpr size_t kProductRows = 2;          // rows of a product taken abreast: as many sums as there are registers for

struct Words {
    int16_t lane[16];
};
struct Sums {
    int32_t lane[8];
};

inline Words load_words(const int16_t* p) {
    Words v;
    std::memcpy(v.lane, p, sizeof v.lane);
    return v;
}
// The two words at p, eight times.
inline Words broadcast_pair(const int16_t* p) {
    Words v;
    for (int i = 0; i < 16; ++i) v.lane[i] = p[i % 2];
    return v;
}
inline Words add(const Words& a, const Words& b) {
    Words v;
    for (int i = 0; i < 16; ++i) v.lane[i] = static_cast<int16_t>(a.lane[i] + b.lane[i]);
    return v;
}
inline Sums no_sums() { return {}; }
// Lane i of the sum grows by a[2i] b[2i] + a[2i + 1] b[2i + 1].
inline Sums add_products(const Sums& sum, const Words& a, const Words& b) {
    Sums v;
    for (int i = 0; i < 8; ++i) {
        v.lane[i] = sum.lane[i] + (a.lane[2 * i] * b.lane[2 * i] + a.lane[2 * i + 1] * b.lane[2 * i + 1]);
    }
    return v;
}
inline Floats to_floats(const Sums& v) {
    return each([&](int i) { return static_cast<float>(v.lane[i]); });
}
inline void to_floats(const Words& v, Floats* low, Floats* high) {
    *low = each([&](int i) { return static_cast<float>(v.lane[i]); });
    *high = each([&](int i) { return static_cast<float>(v.lane[i + 8]); });
}
inline Floats divide(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
}
// b where one is not a number.
inline Floats maximum(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
// v 2^n of kMagic + n, for v of 1/2 to 2 and a result of normal size; 0 where a < b. No number stays none if the low 9
// bits of whole are 0.
inline Floats scaled_unless_less(const Floats& v, const Floats& whole, const Floats& a, const Floats& b) {
    return each([&](int i) {
        uint32_t bits, shift;
        std::memcpy(&bits, &v.lane[i], 4);
        std::memcpy(&shift, &whole.lane[i], 4);
        bits = a.lane[i] < b.lane[i] ? 0 : bits + (shift << 23);
        float scaled;
        std::memcpy(&scaled, &bits, 4);
        return scaled;
    });
}

}  // namespace on_scalar

#if VQ_X86
namespace on_simd128 {

constexpr size_t kLanes = 8, kVectors = 2, kAbreast = 4, kProductRows = 2;

struct Words {
    __m128i low, high;
};
struct Sums {
    __m128i low, high;
};

VQ_TARGET_128 inline Words load_words(const int16_t* p) { return {load16(p), load16(p + 8)}; }
VQ_TARGET_128 inline Words broadcast_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return {_mm_set1_epi32(pair), _mm_set1_epi32(pair)};
}
VQ_TARGET_128 inline Words add(Words a, Words b) {
    return {_mm_add_epi16(a.low, b.low), _mm_add_epi16(a.high, b.high)};
}
VQ_TARGET_128 inline Sums no_sums() { return {_mm_setzero_si128(), _mm_setzero_si128()}; }
VQ_TARGET_128 inline Sums add_products(Sums sum, Words a, Words b) {
    return {_mm_add_epi32(sum.low, _mm_madd_epi16(a.low, b.low)),
            _mm_add_epi32(sum.high, _mm_madd_epi16(a.high, b.high))};
}
VQ_TARGET_128 inline Floats to_floats(Sums v) { return {_mm_cvtepi32_ps(v.low), _mm_cvtepi32_ps(v.high)}; }
VQ_TARGET_128 inline Floats widened(__m128i v) {
    const __m128i sign = _mm_srai_epi16(v, 15);
    return {_mm_cvtepi32_ps(_mm_unpacklo_epi16(v, sign)), _mm_cvtepi32_ps(_mm_unpackhi_epi16(v, sign))};
}
VQ_TARGET_128 inline void to_floats(Words v, Floats* low, Floats* high) {
    *low = widened(v.low);
    *high = widened(v.high);
}
VQ_TARGET_128 inline Floats divide(Floats a, Floats b) {
    return {_mm_div_ps(a.low, b.low), _mm_div_ps(a.high, b.high)};
}
VQ_TARGET_128 inline Floats maximum(Floats a, Floats b) {
    return {_mm_max_ps(a.low, b.low), _mm_max_ps(a.high, b.high)};
}
VQ_TARGET_128 inline __m128 scaled_in_4(__m128 v, __m128 whole, __m128 less) {
    const __m128i bits = _mm_add_epi32(_mm_castps_si128(v), _mm_slli_epi32(_mm_castps_si128(whole), 23));
    return _mm_andnot_ps(less, _mm_castsi128_ps(bits));
}
VQ_TARGET_128 inline Floats scaled_unless_less(Floats v, Floats whole, Floats a, Floats b) {
    return {scaled_in_4(v.low, whole.low, _mm_cmplt_ps(a.low, b.low)),
            scaled_in_4(v.high, whole.high, _mm_cmplt_ps(a.high, b.high))};
}

}  // namespace on_simd128

namespace on_avx2 {

constexpr size_t kLanes = 8, kVectors = 2, kAbreast = 4, kProductRows = 4;

using Words = __m256i;
struct Sums {
    __m256i lanes;
};

VQ_TARGET_AVX2 inline Words load_words(const int16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
VQ_TARGET_AVX2 inline Words broadcast_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return _mm256_set1_epi32(pair);
}
VQ_TARGET_AVX2 inline Words add(Words a, Words b) { return _mm256_add_epi16(a, b); }
VQ_TARGET_AVX2 inline Sums no_sums() { return {_mm256_setzero_si256()}; }
VQ_TARGET_AVX2 inline Sums add_products(Sums sum, Words a, Words b) {
    return {_mm256_add_epi32(sum.lanes, _mm256_madd_epi16(a, b))};
}
VQ_TARGET_AVX2 inline Floats to_floats(Sums v) { return _mm256_cvtepi32_ps(v.lanes); }
VQ_TARGET_AVX2 inline void to_floats(Words v, Floats* low, Floats* high) {
    *low = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(v)));
    *high = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(v, 1)));
}
VQ_TARGET_AVX2 inline Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
VQ_TARGET_AVX2 inline Floats maximum(Floats a, Floats b) { return _mm256_max_ps(a, b); }
VQ_TARGET_AVX2 inline Floats scaled_unless_less(Floats v, Floats whole, Floats a, Floats b) {
    const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_castps_si256(whole), 23));
    return _mm256_andnot_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ), _mm256_castsi256_ps(bits));
}

}  // namespace on_avx2

#elif VQ_NEON
namespace on_simd128 {

constexpr size_t kLanes = 8, kVectors = 2, kAbreast = 4, kProductRows = 4;

struct Words {
    int16x8_t low, high;
};
struct Sums {
    int32x4_t low, high;
};

inline Words load_words(const int16_t* p) { return {vld1q_s16(p), vld1q_s16(p + 8)}; }
inline Words broadcast_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    const int16x8_t v = vreinterpretq_s16_s32(vdupq_n_s32(pair));
    return {v, v};
}
inline Words add(Words a, Words b) { return {vaddq_s16(a.low, b.low), vaddq_s16(a.high, b.high)}; }
inline Sums no_sums() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
inline int32x4_t products(int16x8_t a, int16x8_t b) {
    return vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
}
inline Sums add_products(Sums sum, Words a, Words b) {
    return {vaddq_s32(sum.low, products(a.low, b.low)), vaddq_s32(sum.high, products(a.high, b.high))};
}
inline Floats to_floats(Sums v) { return {vcvtq_f32_s32(v.low), vcvtq_f32_s32(v.high)}; }
inline Floats widened(int16x8_t v) {
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))), vcvtq_f32_s32(vmovl_high_s16(v))};
}
inline void to_floats(Words v, Floats* low, Floats* high) {
    *low = widened(v.low);
    *high = widened(v.high);
}
inline Floats divide(Floats a, Floats b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
inline Floats maximum(Floats a, Floats b) {
    return {vbslq_f32(vcgtq_f32(a.low, b.low), a.low, b.low), vbslq_f32(vcgtq_f32(a.high, b.high), a.high, b.high)};
}
inline float32x4_t scaled_in_4(float32x4_t v, float32x4_t whole, uint32x4_t less) {
    const uint32x4_t bits = vaddq_u32(vreinterpretq_u32_f32(v), vshlq_n_u32(vreinterpretq_u32_f32(whole), 23));
    return vreinterpretq_f32_u32(vbicq_u32(bits, less));
}
inline Floats scaled_unless_less(Floats v, Floats whole, Floats a, Floats b) {
    return {scaled_in_4(v.low, whole.low, vcltq_f32(a.low, b.low)),
            scaled_in_4(v.high, whole.high, vcltq_f32(a.high, b.high))};
}

}  // namespace on_simd128
#endif

}  // namespace vqlabel
