// The sixteen lanes of AVX-512 for decoding, with its instruction for products of 16-bit numbers summed in pairs.
#pragma once

#include "simd.hpp"

#if VQ_X86
namespace vqlabel {
namespace on_avx512 {

constexpr size_t kLanes = 16, kVectors = 2, kAbreast = 2, kProductRows = 8;

using Floats = __m512;
using Words = __m512i;
struct Sums {
    __m512i lanes;
};

VQ_TARGET_AVX512 inline Floats broadcast(float x) { return _mm512_set1_ps(x); }
VQ_TARGET_AVX512 inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
VQ_TARGET_AVX512 inline void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
VQ_TARGET_AVX512 inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
VQ_TARGET_AVX512 inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
VQ_TARGET_AVX512 inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
VQ_TARGET_AVX512 inline Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
VQ_TARGET_AVX512 inline Floats maximum(Floats a, Floats b) { return _mm512_max_ps(a, b); }
VQ_TARGET_AVX512 inline Floats scaled_unless_less(Floats v, Floats whole, Floats a, Floats b) {
    const __mmask16 kept = _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ);
    const __m512i shift = _mm512_slli_epi32(_mm512_castps_si512(whole), 23);
    return _mm512_castsi512_ps(_mm512_maskz_add_epi32(kept, _mm512_castps_si512(v), shift));
}
VQ_TARGET_AVX512 inline Words load_words(const int16_t* p) { return _mm512_loadu_si512(p); }
VQ_TARGET_AVX512 inline Words add(Words a, Words b) { return _mm512_add_epi16(a, b); }
VQ_TARGET_AVX512 inline void to_floats(Words v, Floats* low, Floats* high) {
    *low = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(v)));
    *high = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(v, 1)));
}
VQ_TARGET_AVX512 inline Words broadcast_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return _mm512_set1_epi32(pair);
}
VQ_TARGET_AVX512 inline Sums no_sums() { return {_mm512_setzero_si512()}; }
VQ_TARGET_AVX512 inline Sums add_products(Sums sum, Words a, Words b) { return {_mm512_dpwssd_epi32(sum.lanes, a, b)}; }
VQ_TARGET_AVX512 inline Floats to_floats(Sums v) { return _mm512_cvtepi32_ps(v.lanes); }

}  // namespace on_avx512
}  // namespace vqlabel
#endif
