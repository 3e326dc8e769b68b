// Which vector units this processor has, which of them is in use, and eight 16-bit lanes to write a kernel in once.
//
// No file is compiled with -mavx2: each vector function carries its own target attribute, so the library loads on any
// processor and no vector code can leak into a shared inline function.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(_M_X64)
#define VQ_X86 1
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // GCC 12 warns of its own AVX-512 intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#if defined(_MSC_VER)
#include <intrin.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#define VQ_NEON 1
#include <arm_neon.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "vqlabel reads and writes little-endian words; this processor is big-endian"
#endif

#if VQ_X86 && defined(__GNUC__)
#define VQ_TARGET(features) __attribute__((target(features)))
#else
#define VQ_TARGET(features)
#endif

namespace vqlabel {

// Ordered: each one may use what the ones before it can do. `simd128` is SSSE3 on x86-64 and NEON on arm64.
// `avx512` stands for all of AVX-512 F, BW, DQ, VL and VNNI.
enum class Simd { scalar, simd128, avx2, avx512 };

inline const char* simd_name(Simd simd) {
    if (simd == Simd::avx512) return "avx512";
    if (simd == Simd::avx2) return "avx2";
    if (simd == Simd::scalar) return "scalar";
#if VQ_NEON
    return "neon";
#else
    return "ssse3";
#endif
}

inline Simd best_simd() {
#if VQ_NEON
    return Simd::simd128;
#elif VQ_X86 && defined(_MSC_VER)
    int leaf1[4], leaf7[4];
    __cpuid(leaf1, 1);
    __cpuidex(leaf7, 7, 0);
    const auto saved_by_os = (leaf1[2] & (1 << 27)) ? _xgetbv(0) : 0;
    const unsigned wide = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
    const bool all = (static_cast<unsigned>(leaf7[1]) & wide) == wide && (leaf7[2] & (1 << 11));
    if ((saved_by_os & 0xE6) == 0xE6 && all) return Simd::avx512;
    if ((saved_by_os & 6) == 6 && (leaf7[1] & (1 << 5))) return Simd::avx2;
    return (leaf1[2] & (1 << 9)) ? Simd::simd128 : Simd::scalar;
#elif VQ_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
        return Simd::avx512;
    }
    if (__builtin_cpu_supports("avx2")) return Simd::avx2;
    return __builtin_cpu_supports("ssse3") ? Simd::simd128 : Simd::scalar;
#else
    return Simd::scalar;
#endif
}

// Throws std::invalid_argument, naming what this processor has, for a name it does not.
inline Simd simd_from_name(const std::string& name) {
    std::string allowed;
    for (Simd simd : {Simd::scalar, Simd::simd128, Simd::avx2, Simd::avx512}) {
        if (simd > best_simd()) break;
        if (name == simd_name(simd)) return simd;
        allowed += (allowed.empty() ? "" : ", ") + std::string(simd_name(simd));
    }
    throw std::invalid_argument("SIMD path '" + name + "' is not one of those this processor has: " + allowed);
}

// VQLABEL_SIMD names a slower path than the best, so that tests can run them all.
inline Simd simd_from_environment() {
    const char* name = std::getenv("VQLABEL_SIMD");
    return name && *name ? simd_from_name(name) : best_simd();
}

inline std::atomic<Simd>& simd_in_use() {
    static std::atomic<Simd> simd{simd_from_environment()};
    return simd;
}

#if VQ_X86
using Lanes = __m128i;  // eight u16, or sixteen bytes
#define VQ_TARGET_128 VQ_TARGET("ssse3")
#define VQ_TARGET_AVX2 VQ_TARGET("avx2")
#define VQ_TARGET_AVX512 VQ_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

VQ_TARGET_128 inline Lanes load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
VQ_TARGET_128 inline Lanes load8(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
VQ_TARGET_128 inline void store16(void* p, Lanes v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
VQ_TARGET_128 inline void store8(void* p, Lanes v) { _mm_storel_epi64(static_cast<__m128i*>(p), v); }
VQ_TARGET_128 inline Lanes zero() { return _mm_setzero_si128(); }
VQ_TARGET_128 inline Lanes bit_or(Lanes a, Lanes b) { return _mm_or_si128(a, b); }
VQ_TARGET_128 inline Lanes bit_and(Lanes a, Lanes b) { return _mm_and_si128(a, b); }
VQ_TARGET_128 inline Lanes bit_and_not(Lanes a, Lanes b) { return _mm_andnot_si128(b, a); }  // a & ~b
// Bytes of v in the order given; an index of 0x80 gives a zero byte.
VQ_TARGET_128 inline Lanes shuffle(Lanes v, Lanes index) { return _mm_shuffle_epi8(v, index); }
VQ_TARGET_128 inline Lanes multiply_low(Lanes a, Lanes b) { return _mm_mullo_epi16(a, b); }
VQ_TARGET_128 inline Lanes multiply_high(Lanes a, Lanes b) { return _mm_mulhi_epu16(a, b); }
VQ_TARGET_128 inline Lanes narrow(Lanes v) { return _mm_packus_epi16(v, v); }
VQ_TARGET_128 inline Lanes widen(Lanes v) { return _mm_unpacklo_epi8(v, _mm_setzero_si128()); }
VQ_TARGET_128 inline Lanes shift_right16(Lanes v, int n) { return _mm_srl_epi16(v, _mm_cvtsi32_si128(n)); }
VQ_TARGET_128 inline Lanes shift_right32(Lanes v, int n) { return _mm_srl_epi32(v, _mm_cvtsi32_si128(n)); }
VQ_TARGET_128 inline Lanes shift_right64(Lanes v, int n) { return _mm_srl_epi64(v, _mm_cvtsi32_si128(n)); }
VQ_TARGET_128 inline Lanes shift_left64(Lanes v, int n) { return _mm_sll_epi64(v, _mm_cvtsi32_si128(n)); }

#elif VQ_NEON
using Lanes = uint16x8_t;
#define VQ_TARGET_128

inline Lanes load16(const void* p) { return vreinterpretq_u16_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
inline Lanes load8(const void* p) {
    return vreinterpretq_u16_u8(vcombine_u8(vld1_u8(static_cast<const uint8_t*>(p)), vdup_n_u8(0)));
}
inline void store16(void* p, Lanes v) { vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_u16(v)); }
inline void store8(void* p, Lanes v) { vst1_u8(static_cast<uint8_t*>(p), vget_low_u8(vreinterpretq_u8_u16(v))); }
inline Lanes zero() { return vdupq_n_u16(0); }
inline Lanes bit_or(Lanes a, Lanes b) { return vorrq_u16(a, b); }
inline Lanes bit_and(Lanes a, Lanes b) { return vandq_u16(a, b); }
inline Lanes bit_and_not(Lanes a, Lanes b) { return vbicq_u16(a, b); }
inline Lanes shuffle(Lanes v, Lanes index) {
    return vreinterpretq_u16_u8(vqtbl1q_u8(vreinterpretq_u8_u16(v), vreinterpretq_u8_u16(index)));
}
inline Lanes multiply_low(Lanes a, Lanes b) { return vmulq_u16(a, b); }
inline Lanes multiply_high(Lanes a, Lanes b) {
    const uint32x4_t low = vmull_u16(vget_low_u16(a), vget_low_u16(b));
    return vshrn_high_n_u32(vshrn_n_u32(low, 16), vmull_high_u16(a, b), 16);
}
inline Lanes narrow(Lanes v) { return vreinterpretq_u16_u8(vcombine_u8(vqmovn_u16(v), vqmovn_u16(v))); }
inline Lanes widen(Lanes v) { return vmovl_u8(vget_low_u8(vreinterpretq_u8_u16(v))); }
inline Lanes shift_right16(Lanes v, int n) { return vshlq_u16(v, vdupq_n_s16(static_cast<int16_t>(-n))); }
inline Lanes shift_right32(Lanes v, int n) {
    return vreinterpretq_u16_u32(vshlq_u32(vreinterpretq_u32_u16(v), vdupq_n_s32(-n)));
}
inline Lanes shift_right64(Lanes v, int n) {
    return vreinterpretq_u16_u64(vshlq_u64(vreinterpretq_u64_u16(v), vdupq_n_s64(-n)));
}
inline Lanes shift_left64(Lanes v, int n) {
    return vreinterpretq_u16_u64(vshlq_u64(vreinterpretq_u64_u16(v), vdupq_n_s64(n)));
}
#endif

// Asks for the line that many bytes on. No access: the address may lie outside any buffer.
inline void prefetch(const void* p, size_t bytes_ahead = 0) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(p) + bytes_ahead;
#if VQ_X86
    _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T0);
#elif defined(__GNUC__)
    __builtin_prefetch(reinterpret_cast<const void*>(address));
#else
    (void)address;
#endif
}

}  // namespace vqlabel
